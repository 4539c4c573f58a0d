//! Which device holds what, to the byte, before anything is loaded: `plan` is pure, and so are its figures.
//!
//! Layers are dealt to home devices in contiguous runs, in the order of the devices: as many as their bandwidth asks for
//! and their memory allows. Each routed expert has one device that computes it: adapters first, a layer's on its
//! home or divided among all ([`Spread`]), then the host, where there is one; without a host the rest is streamed into slots on
//! the layer's home, and so are those that it keeps there.

use std::ops::Range;

use porism_loader::{Kind, ModelConfig, TensorTable};
use serde::{Deserialize, Serialize};

use crate::engine::{self, EngineOptions};
use crate::error::Error;
use crate::layout::{ByKind, Layout, Slot};
use crate::model::step;

/// What a WebGPU dispatch costs on a real adapter, in seconds: between the 24 and 70 µs that drivers take.
const DISPATCH_SECONDS: f64 = 40e-6;
/// Dispatches of a layer with experts when all are resident.
const DISPATCHES_PER_LAYER: f64 = 14.0;
/// A vector's way to another device and back, beside its bytes: two submits and their waits.
const HOP_SECONDS: f64 = 150e-6;

/// A device as the plan sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// For people.
    pub name: String,
    /// The CPU side: its weights are the mapped checkpoint.
    pub host: bool,
    /// Bytes that may be used; `None` if nobody knows.
    pub memory: Option<u64>,
    /// Bytes per second that it reads its own memory with.
    pub bandwidth: f64,
    /// Its share of the work against the others': its bandwidth where that is known for good, and never what was measured
    /// in passing, so that the same devices always get the same.
    pub weight: f64,
    /// Bytes per second that it exchanges with host memory.
    pub link: f64,
    /// Floating-point operations per second that its matrix kernels reach.
    pub compute: f64,
    /// Bytes per second that the host reads from disk.
    pub disk: f64,
    /// Largest binding, in bytes.
    pub max_binding_bytes: u64,
}

impl Device {
    /// Operations per byte of bandwidth where nobody gives a rate: what our FP8 matrix kernels reach on cards whose
    /// peak is several times that.
    pub const OPERATIONS_PER_BYTE: f64 = 20.0;
    /// Bytes per second of a disk where nobody gives a rate.
    pub const DISK: f64 = 3e9;
    /// Bytes per second of a link where nobody gives a rate: PCIe 4.0 with eight lanes.
    pub const LINK: f64 = 12e9;

    /// An adapter.
    pub fn adapter(name: &str, memory: Option<u64>, bandwidth: f64, link: f64) -> Self {
        Device {
            name: name.into(),
            host: false,
            memory,
            bandwidth,
            weight: bandwidth,
            link,
            compute: bandwidth * Self::OPERATIONS_PER_BYTE,
            disk: Self::DISK,
            max_binding_bytes: (4 << 30) - 4,
        }
    }

    /// The CPU side.
    pub fn host(memory: Option<u64>, bandwidth: f64) -> Self {
        Device {
            host: true,
            link: bandwidth,
            max_binding_bytes: u64::MAX,
            ..Self::adapter("host", memory, bandwidth, bandwidth)
        }
    }

    fn memory(&self) -> u64 {
        self.memory.unwrap_or(UNLIMITED)
    }
}

/// More than any model needs, and far from overflow.
const UNLIMITED: u64 = 1 << 60;

/// How experts are spread over devices that keep them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Whichever of the others generates faster, as predicted.
    #[default]
    Best,
    /// A layer's experts stay on its home as far as there is room: nothing has to be carried and the host need not see who
    /// was picked.
    Home,
    /// Each layer's experts are divided among all devices in proportion to their bandwidth: all of them read at once.
    All,
}

impl std::str::FromStr for Spread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "home" => Ok(Self::Home),
            "all" => Ok(Self::All),
            _ => Err(format!("`{text}` is no way to spread experts: give `best`, `home` or `all`")),
        }
    }
}

/// How often each expert was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heat {
    /// Uses by layer and expert: one list per layer, empty for layers without experts.
    pub uses: Vec<Vec<u64>>,
}

impl Heat {
    /// Whether it belongs to a model of this kind; otherwise what differs.
    ///
    /// # Errors
    /// A sentence that says where the two do not agree.
    pub fn check(&self, config: &ModelConfig) -> Result<(), String> {
        let layers = config.num_hidden_layers as usize;
        if self.uses.len() != layers {
            return Err(format!("it has {} layers, the model has {layers}", self.uses.len()));
        }
        for (layer, uses) in (0u32..).zip(&self.uses) {
            let expected = if config.is_moe(layer) { config.n_routed_experts as usize } else { 0 };
            if uses.len() != expected {
                return Err(format!("layer {layer} has {} experts, the model's has {expected}", uses.len()));
            }
        }
        Ok(())
    }
}

/// Where an expert is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the device.
    pub device: usize,
    /// Whether its bytes stay there; otherwise they are streamed into a slot when it is picked.
    pub resident: bool,
}

/// A device's part of a plan. Bytes are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct DevicePlan {
    /// Weights in its memory by kind, slots for streamed experts among them.
    pub weights: ByKind,
    /// Weights that the host reads from disk, since its memory is full; not part of `weights`.
    pub disk: u64,
    /// Latent and indexer caches of its layers.
    pub cache: u64,
    /// Activations and inputs.
    pub activations: u64,
    /// Upload and read-back buffers.
    pub staging: u64,
    /// The layers it is home to.
    pub layers: Range<u32>,
    /// Whether it looks tokens up.
    pub embedding: bool,
    /// Whether it computes the logits.
    pub head: bool,
    /// Experts that it computes and keeps.
    pub experts: u32,
    /// Experts that it computes after they were streamed to it.
    pub streamed: u32,
    /// Slots for those.
    pub slots: u32,
}

impl DevicePlan {
    /// Bytes of its memory.
    pub fn total(&self) -> u64 {
        self.weights.total() + self.cache + self.activations + self.staging
    }
}

/// What a plan promises.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Tokens per second of one sequence that is being generated.
    pub decode_tokens_per_second: f64,
    /// Tokens per second of a prompt.
    pub prefill_tokens_per_second: f64,
    /// What takes most of the time of a token that is generated.
    pub limited_by: String,
    /// The same for a prompt.
    pub prefill_limited_by: String,
}

/// Which device holds what.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order of the devices.
    pub devices: Vec<DevicePlan>,
    /// By layer and expert; empty for layers without experts.
    pub placement: Vec<Vec<Place>>,
    /// Tokens of a prefill step.
    pub chunk: usize,
    /// Rates.
    pub predicted: Predicted,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

impl Plan {
    /// Bytes of weights on all devices and on disk.
    pub fn weights(&self) -> u64 {
        self.devices.iter().map(|device| device.weights.total() + device.disk).sum()
    }
}

/// Divides a model among devices.
///
/// # Errors
/// A context beyond the model's, a model that kernels cannot run, or [`Error::DoesNotFit`].
pub fn plan(table: &dyn TensorTable, devices: &[Device], request: &EngineOptions) -> Result<Plan, Error> {
    assert!(!devices.is_empty(), "a plan needs a device");
    let costs = devices.iter().map(|device| Costs::new(table, device)).collect::<Result<Vec<_>, _>>()?;
    let problem = Problem { table, devices, costs: &costs, request };
    if let Some(plan) = problem.solve(&problem.memories())? {
        return Ok(plan);
    }
    Err(problem.refusal()?)
}

/// What parts of a model take on a device: the embedding, each layer, the head.
struct Costs<'t> {
    layout: Layout<'t>,
    /// Without routed experts. Sums over the items before each.
    dense: Vec<u64>,
    slot: Slot,
    /// All of it, routed experts included.
    whole: u64,
}

impl<'t> Costs<'t> {
    fn new(table: &'t dyn TensorTable, device: &Device) -> Result<Self, Error> {
        let config = table.config();
        let layout = Layout::new(table, device.max_binding_bytes);
        let mut slot = Slot { bytes: 0, scales: 0 };
        let mut items = vec![layout.embedding()?.total()];
        for layer in 0..config.num_hidden_layers {
            let mut bytes = layout.layer(layer)?;
            if config.is_moe(layer) {
                bytes.extend(&layout.experts(layer, 0, true)?);
                let this = layout.slot(layer)?;
                slot = Slot { bytes: slot.bytes.max(this.bytes), scales: slot.scales.max(this.scales) };
            }
            items.push(bytes.total());
        }
        items.push(layout.head()?.total());
        let mut dense = vec![0];
        for bytes in items {
            dense.push(dense.last().expect("never empty") + bytes);
        }
        let whole = layout.model()?.total();
        Ok(Costs { layout, dense, slot, whole })
    }

    /// Bytes of slot tables of a layer with up to `experts` experts, and what rounding may add.
    fn table_bytes(&self, experts: u32) -> u64 {
        let slabs = u64::from(experts).div_ceil(self.layout.slots_per_slab(self.slot).max(1)) + 1;
        slabs * self.layout.table_bytes() + 8
    }
}

/// A division of layers and experts.
struct Draft {
    /// Items of each device: 0 is the embedding, then the layers, then the head.
    runs: Vec<Range<usize>>,
    /// Experts that each device may keep.
    quotas: Vec<u64>,
    /// Index of the device that takes what no adapter keeps, if there is a host.
    host: Option<usize>,
    chunk: usize,
    /// Experts that each device has room for.
    capacity: Vec<u64>,
}

struct Problem<'p> {
    table: &'p dyn TensorTable,
    devices: &'p [Device],
    costs: &'p [Costs<'p>],
    request: &'p EngineOptions,
}

impl Problem<'_> {
    fn config(&self) -> &ModelConfig {
        self.table.config()
    }

    fn memories(&self) -> Vec<u64> {
        self.devices.iter().map(Device::memory).collect()
    }

    fn moe_layers(&self) -> Vec<u32> {
        let config = self.config();
        (0..config.num_hidden_layers).filter(|layer| config.is_moe(*layer)).collect()
    }

    /// The plan for devices of these sizes, if there is one.
    fn solve(&self, memory: &[u64]) -> Result<Option<Plan>, Error> {
        let Some(draft) = self.draft(memory, self.request)? else { return Ok(None) };
        let spread = self.request.spread;
        if spread != Spread::Best || self.devices.len() == 1 {
            return self.finish(&draft, memory, spread).map(Some);
        }
        let [home, all] = [Spread::Home, Spread::All].map(|spread| self.finish(&draft, memory, spread));
        let (home, all) = (home?, all?);
        // By rates that do not change from one run to the next.
        let lasting: Vec<Device> =
            self.devices.iter().map(|device| Device { bandwidth: device.weight, ..device.clone() }).collect();
        let lasting = Problem { devices: &lasting, ..*self };
        let shares = self.shares();
        let rate = |plan: &Plan| -> Result<f64, Error> {
            let predicted = lasting.predict(&plan.devices, &plan.placement, &shares, draft.chunk)?;
            Ok(predicted.decode_tokens_per_second)
        };
        Ok(Some(if rate(&home)? >= rate(&all)? { home } else { all }))
    }

    fn draft(&self, memory: &[u64], options: &EngineOptions) -> Result<Option<Draft>, Error> {
        let chunks = engine::chunks(self.config(), options)?;
        for slots in [false, true] {
            for chunk in &chunks {
                if let Some(draft) = self.try_chunk(memory, options, *chunk, slots) {
                    return Ok(Some(draft));
                }
                // One device is filled as the engine does it: a smaller step rather than streamed experts. Among
                // several the step shrinks only where the plan would fail otherwise.
                if self.devices.len() > 1 && !slots && self.try_chunk(memory, options, *chunk, true).is_some()
                {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// With `slots` each home has room to stream experts into.
    fn try_chunk(&self, memory: &[u64], options: &EngineOptions, chunk: usize, slots: bool) -> Option<Draft> {
        let config = self.config();
        let sizes = engine::sizes(options, chunk);
        let layers = config.num_hidden_layers;
        let items = layers as usize + 2;
        let host = self.devices.iter().position(|device| device.host);
        let has_adapter = self.devices.iter().any(|device| !device.host);
        let whole = step::bytes_of_layers(config, sizes, 0..0);
        let caches: Vec<u64> =
            (0..layers).map(|layer| step::bytes_of_layers(config, sizes, layer..layer + 1).cache).collect();
        let largest = step::bytes(config, sizes).largest_binding;
        let picks = u64::from(config.num_experts_per_tok);
        let experts = config.n_routed_experts;

        // What a device needs to be home to a run of items.
        let cost = |device: usize, run: &Range<usize>| -> u64 {
            if run.is_empty() {
                return 0;
            }
            let (costs, profile) = (&self.costs[device], &self.devices[device]);
            if largest > profile.max_binding_bytes {
                return u64::MAX;
            }
            let mut bytes = costs.dense[run.end] - costs.dense[run.start];
            if config.tie_word_embeddings && run.start == 0 && run.end < items {
                bytes += costs.dense[items] - costs.dense[items - 1];
            }
            let home = layers_of(run, layers);
            bytes += caches[home.start as usize..home.end as usize].iter().sum::<u64>();
            let moe = home.filter(|layer| config.is_moe(*layer)).count() as u64;
            if slots && moe > 0 && !profile.host {
                bytes += picks * costs.slot.total() + moe * costs.table_bytes(experts);
            }
            bytes + whole.activations + self.staging(device, memory[device])
        };

        // The latest item at which the devices from each on may start and still take all that follow.
        let count = self.devices.len();
        let mut latest = vec![items; count + 1];
        for device in (0..count).rev() {
            let end = latest[device + 1];
            let mut start = end;
            while start > 0 && cost(device, &(start - 1..end)) <= memory[device] {
                start -= 1;
            }
            latest[device] = start;
        }
        if latest[0] > 0 {
            return None;
        }
        let weight = |device: &Device| if device.host && has_adapter { 0.0 } else { device.weight };
        let all: f64 = self.devices.iter().map(weight).sum();
        let (mut before, mut start) = (0.0, 0);
        let mut runs = Vec::new();
        for (device, profile) in self.devices.iter().enumerate() {
            before += weight(profile);
            let target = (items as f64 * before / all).round() as usize;
            let mut end = target.max(latest[device + 1]).max(start);
            if device + 1 == count {
                end = items;
            }
            while end > start && cost(device, &(start..end)) > memory[device] {
                end -= 1;
            }
            runs.push(start..end);
            start = end;
        }
        debug_assert_eq!(start, items, "every item has a home");

        let moe_layers = self.moe_layers().len() as u64;
        let total = moe_layers * u64::from(experts);
        let capacity: Vec<u64> = (0..count)
            .map(|device| {
                if self.devices[device].host || total == 0 {
                    return 0;
                }
                let run = &runs[device];
                let fixed = if run.is_empty() {
                    step::remote_bytes(config, sizes) + self.staging(device, memory[device])
                } else {
                    cost(device, run)
                };
                let tables = moe_layers * self.costs[device].table_bytes(experts);
                let room = memory[device].saturating_sub(fixed.saturating_add(tables));
                (room / self.costs[device].slot.total().max(1)).min(total)
            })
            .collect();
        // One device that holds the whole model is exact, without what rounding may add.
        let quotas = match self.devices {
            [only] if !only.host && self.fits_whole(memory[0], options, chunk) => vec![total],
            _ => fill(total, &capacity, &self.devices.iter().map(|d| d.weight).collect::<Vec<_>>()),
        };
        let left = total - quotas.iter().sum::<u64>();
        // A host that is no home still needs room to compute in.
        let helps = |host: usize| !runs[host].is_empty() || step::remote_bytes(config, sizes) <= memory[host];
        if left > 0 && !host.map_or(slots, helps) {
            return None;
        }
        Some(Draft { runs, quotas, host, chunk, capacity })
    }

    fn fits_whole(&self, memory: u64, options: &EngineOptions, chunk: usize) -> bool {
        let config = self.config();
        let bytes = step::bytes(config, engine::sizes(options, chunk));
        self.costs[0].whole + bytes.cache + bytes.activations + self.staging(0, memory) <= memory
    }

    fn staging(&self, device: usize, memory: u64) -> u64 {
        let profile = &self.devices[device];
        // A part of a model needs no less staging than the whole of a small one.
        let weights = self.costs[device].whole;
        engine::staging_bytes(profile.host, weights, profile.memory.map(|_| memory))
    }

    /// Places every expert and counts every byte.
    fn finish(&self, draft: &Draft, memory: &[u64], spread: Spread) -> Result<Plan, Error> {
        let config = self.config();
        let layers = config.num_hidden_layers;
        let count = self.devices.len();
        let items = layers as usize + 2;
        let home_of = |layer: u32| -> usize {
            let item = layer as usize + 1;
            draft.runs.iter().position(|run| run.contains(&item)).expect("every item has a home")
        };
        let shares = self.shares();
        let placement = self.place(draft, &shares, spread, home_of);

        let options = self.request;
        let sizes = engine::sizes(options, draft.chunk);
        let mut devices = Vec::new();
        for (index, run) in draft.runs.iter().enumerate() {
            let costs = &self.costs[index];
            let profile = &self.devices[index];
            let home = layers_of(run, layers);
            let mut weights = ByKind::default();
            let embedding = run.contains(&0);
            let head = run.contains(&(items - 1));
            if embedding {
                let tied_elsewhere = config.tie_word_embeddings && !head;
                weights.extend(&if tied_elsewhere {
                    costs.layout.head()?
                } else {
                    costs.layout.embedding()?
                });
            }
            if head {
                weights.extend(&costs.layout.head()?);
            }
            // Where experts are streamed, those that stay are in slots like the others.
            let in_slots = placement.iter().flatten().any(|place| place.device == index && !place.resident);
            let (mut experts, mut streamed) = (0, 0);
            for layer in 0..layers {
                let is_home = home.contains(&layer);
                if is_home {
                    weights.extend(&costs.layout.layer(layer)?);
                }
                if !config.is_moe(layer) {
                    continue;
                }
                let mine = placement[layer as usize].iter().filter(|place| place.device == index);
                let (mut resident, mut fleeting) = (0, 0);
                for place in mine {
                    if place.resident { resident += 1 } else { fleeting += 1 }
                }
                weights.extend(&costs.layout.experts(layer, if in_slots { 0 } else { resident }, is_home)?);
                experts += resident;
                streamed += fleeting;
            }
            let used = step::bytes_of_layers(config, sizes, home.clone());
            let (cache, activations) = if !run.is_empty() {
                (used.cache, used.activations)
            } else if experts > 0 {
                (0, step::remote_bytes(config, sizes))
            } else {
                (0, 0)
            };
            let idle = run.is_empty() && experts == 0;
            let staging = if idle { 0 } else { self.staging(index, memory[index]) };
            let mut slots = 0;
            if in_slots {
                let fixed = weights.total() + cache + activations + staging;
                slots = self.slots(index, memory[index].saturating_sub(fixed), experts + streamed);
                weights.extend(&costs.layout.pool(costs.slot, slots.into()));
            }
            let mut disk = 0;
            if profile.host {
                // What is beyond the host's memory stays on disk: experts, since all else was found to fit.
                let room = memory[index].saturating_sub(cache + activations);
                disk = weights.total().saturating_sub(room).min(weights.of(Kind::RoutedExpert));
                weights = less(&weights, Kind::RoutedExpert, disk);
            }
            devices.push(DevicePlan {
                weights,
                disk,
                cache,
                activations,
                staging,
                layers: home,
                embedding,
                head,
                experts,
                streamed,
                slots,
            });
        }
        for (index, device) in devices.iter().enumerate() {
            assert!(
                device.total() <= memory[index],
                "{} bytes planned on {}, its memory is {}",
                device.total(),
                self.devices[index].name,
                memory[index]
            );
        }
        debug_assert_eq!(devices.len(), count);
        let predicted = self.predict(&devices, &placement, &shares, draft.chunk)?;
        let notes = self.notes(&devices);
        Ok(Plan { devices, placement, chunk: draft.chunk, predicted, notes })
    }

    /// Slots that fit into `room` bytes, no more than there are experts.
    fn slots(&self, device: usize, room: u64, experts: u32) -> u32 {
        let costs = &self.costs[device];
        let fits = |slots: u64| costs.layout.pool(costs.slot, slots).total() <= room;
        let mut slots = (room / costs.slot.total().max(1)).min(experts.into());
        while slots > 0 && !fits(slots) {
            slots -= 1;
        }
        slots as u32
    }

    /// How often a token picks each expert of each layer.
    fn shares(&self) -> Vec<Vec<f64>> {
        let config = self.config();
        let experts = config.n_routed_experts as usize;
        let picks = f64::from(config.num_experts_per_tok);
        (0..config.num_hidden_layers)
            .map(|layer| {
                if !config.is_moe(layer) {
                    return vec![];
                }
                let even = vec![picks / experts as f64; experts];
                let Some(uses) = self.request.heat.as_ref().and_then(|heat| heat.uses.get(layer as usize))
                else {
                    return even;
                };
                let sum: u64 = uses.iter().fold(0, |sum, count| sum.saturating_add(*count));
                if uses.len() != experts || sum == 0 {
                    return even;
                }
                uses.iter().map(|count| (*count as f64 / sum as f64 * picks).min(1.0)).collect()
            })
            .collect()
    }

    /// A place for every expert.
    fn place(
        &self,
        draft: &Draft,
        shares: &[Vec<f64>],
        spread: Spread,
        home_of: impl Fn(u32) -> usize,
    ) -> Vec<Vec<Place>> {
        let config = self.config();
        let experts = config.n_routed_experts as usize;
        let moe_layers = self.moe_layers();
        let mut placement: Vec<Vec<Place>> = vec![vec![]; config.num_hidden_layers as usize];
        let kept = draft.quotas.iter().sum::<u64>() as usize;

        // How many of each layer's experts adapters keep: the same number, or the hottest of all.
        let mut of_layer = vec![0usize; moe_layers.len()];
        if self.request.heat.is_some() {
            let mut all: Vec<(usize, f64)> = moe_layers
                .iter()
                .enumerate()
                .flat_map(|(at, layer)| shares[*layer as usize].iter().map(move |share| (at, *share)))
                .collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (at, _) in all.iter().take(kept) {
                of_layer[*at] += 1;
            }
        } else {
            let count = moe_layers.len();
            for (at, kept_here) in of_layer.iter_mut().enumerate() {
                *kept_here = kept * (at + 1) / count - kept * at / count;
            }
        }

        let mut quotas = match spread {
            Spread::Home => self.home_quotas(draft, &moe_layers, &home_of),
            _ => draft.quotas.clone(),
        };
        for (layer, kept_here) in moe_layers.iter().zip(of_layer) {
            let mut mine = match spread {
                Spread::Home => split_from(kept_here as u64, &quotas, home_of(*layer)),
                _ => split(kept_here as u64, &quotas),
            };
            for (quota, mine) in quotas.iter_mut().zip(&mine) {
                *quota -= mine;
            }
            let share = &shares[*layer as usize];
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|a, b| share[*b].total_cmp(&share[*a]).then(a.cmp(b)));
            let home = home_of(*layer);
            let rest = match draft.host {
                Some(host) => Place { device: host, resident: true },
                None => Place { device: home, resident: false },
            };
            let mut places = vec![rest; experts];
            let mut load = vec![0.0; self.devices.len()];
            for expert in order {
                // The device that would be done first with it.
                let next = (0..mine.len()).filter(|device| mine[*device] > 0).min_by(|a, b| {
                    let done = |device: &usize| {
                        (load[*device] + share[expert] + 1e-9) / self.devices[*device].weight
                    };
                    done(a).total_cmp(&done(b))
                });
                let Some(device) = next else { break };
                mine[device] -= 1;
                load[device] += share[expert] + 1e-9;
                places[expert] = Place { device, resident: true };
            }
            placement[*layer as usize] = places;
        }
        placement
    }

    /// How many experts each device keeps where layers stay at home: those of its own layers first, then what others have
    /// no room for. As many in all as the draft's.
    fn home_quotas(&self, draft: &Draft, moe_layers: &[u32], home_of: impl Fn(u32) -> usize) -> Vec<u64> {
        let experts = u64::from(self.config().n_routed_experts);
        let mut own = vec![0; draft.capacity.len()];
        for layer in moe_layers {
            own[home_of(*layer)] += experts;
        }
        let mut quotas: Vec<u64> =
            own.iter().zip(&draft.capacity).map(|(own, capacity)| *own.min(capacity)).collect();
        let kept: u64 = draft.quotas.iter().sum();
        let room: Vec<u64> =
            draft.capacity.iter().zip(&quotas).map(|(capacity, quota)| capacity - quota).collect();
        let weights: Vec<f64> = self.devices.iter().map(|device| device.weight).collect();
        let more = fill(kept.saturating_sub(quotas.iter().sum()), &room, &weights);
        for (quota, more) in quotas.iter_mut().zip(more) {
            *quota += more;
        }
        quotas
    }

    /// Rates from bandwidths: each weight that a token uses is read once.
    fn predict(
        &self,
        devices: &[DevicePlan],
        placement: &[Vec<Place>],
        shares: &[Vec<f64>],
        chunk: usize,
    ) -> Result<Predicted, Error> {
        let decode = self.step_seconds(devices, placement, shares, 1)?;
        let prefill = self.step_seconds(devices, placement, shares, chunk)?;
        Ok(Predicted {
            decode_tokens_per_second: 1.0 / decode.total(),
            prefill_tokens_per_second: chunk as f64 / prefill.total(),
            limited_by: decode.largest(self.devices),
            prefill_limited_by: prefill.largest(self.devices),
        })
    }

    /// Where the time of a step of some tokens of one sequence goes.
    fn step_seconds(
        &self,
        plans: &[DevicePlan],
        placement: &[Vec<Place>],
        shares: &[Vec<f64>],
        tokens: usize,
    ) -> Result<Seconds, Error> {
        let config = self.config();
        let tokens = tokens as f64;
        let vector = f64::from(config.hidden_size) * 4.0 * tokens;
        let mut seconds = Seconds::default();
        let mut previous = None;
        // What a token reads of the caches: all indexer keys, and the latents it attends to; half a context on average.
        let context = self.request.context as f64 / 2.0;
        let topk = config.indexer.as_ref().map_or(context, |i| f64::from(i.index_topk).min(context));
        let latent = f64::from(config.kv_lora_rank + config.qk_rope_head_dim) * 4.0;
        let index = config.indexer.as_ref().map_or(0.0, |i| f64::from(i.index_head_dim) * 4.0);
        for layer in 0..config.num_hidden_layers {
            let home = plans.iter().position(|plan| plan.layers.contains(&layer)).expect("homes cover all");
            let device = &self.devices[home];
            if previous.is_some_and(|previous| previous != home) {
                seconds.add(
                    home,
                    Limit::Link,
                    HOP_SECONDS + vector / device.link.min(self.devices[previous.unwrap_or(home)].link),
                );
            }
            previous = Some(home);
            let costs = &self.costs[home];
            let mut dense = costs.layout.layer(layer)?;
            if config.is_moe(layer) {
                dense.extend(&costs.layout.experts(layer, 0, true)?);
            }
            let bytes = dense.total() as f64;
            let keys = if config.has_indexer(layer) { context * index } else { 0.0 };
            seconds.work(home, device, bytes + tokens * (topk * latent + keys), 2.0 * bytes * tokens);
            if !device.host {
                seconds.add(home, Limit::Dispatches, DISPATCHES_PER_LAYER * DISPATCH_SECONDS);
            }

            // The layer's experts, all devices at once: the slowest counts.
            let places = &placement[layer as usize];
            let mut parts: Vec<Seconds> = vec![Seconds::default(); plans.len()];
            for (place, share) in places.iter().zip(&shares[layer as usize]) {
                let slot = self.costs[place.device].slot.total() as f64;
                let read = slot * (1.0 - (1.0 - share).powf(tokens));
                let profile = &self.devices[place.device];
                let part = &mut parts[place.device];
                let plan = &plans[place.device];
                let on_disk = if plan.disk > 0 {
                    plan.disk as f64 / (plan.disk + plan.weights.of(Kind::RoutedExpert)).max(1) as f64
                } else {
                    0.0
                };
                part.work(place.device, profile, read * (1.0 - on_disk), 2.0 * slot * share * tokens);
                if on_disk > 0.0 {
                    part.add(place.device, Limit::Disk, read * on_disk / profile.disk);
                }
                if !place.resident {
                    part.add(place.device, Limit::Link, read / profile.link);
                }
            }
            for (index, part) in parts.iter_mut().enumerate() {
                if index != home && part.total() > 0.0 {
                    let link = self.devices[index].link.min(device.link);
                    part.add(index, Limit::Link, HOP_SECONDS + 2.0 * vector / link);
                }
            }
            if let Some(slowest) = parts.into_iter().max_by(|a, b| a.total().total_cmp(&b.total())) {
                seconds.extend(slowest);
            }
        }
        let home = plans.iter().position(|plan| plan.head).expect("the head has a home");
        let bytes = self.costs[home].layout.head()?.total() as f64;
        // Of a prompt only the last token's logits are wanted.
        seconds.work(home, &self.devices[home], bytes, 2.0 * bytes);
        Ok(seconds)
    }

    fn notes(&self, plans: &[DevicePlan]) -> Vec<String> {
        let mut notes = Vec::new();
        let config = self.config();
        for (index, plan) in plans.iter().enumerate() {
            let (device, costs) = (&self.devices[index], &self.costs[index]);
            let here = plan.experts + plan.streamed;
            if !device.host && here > 0 {
                let per_layer = here.div_ceil(self.moe_layers().len().max(1) as u32);
                let slabs = u64::from(per_layer).div_ceil(costs.layout.slots_per_slab(costs.slot).max(1));
                if slabs > 1 {
                    notes.push(format!(
                        "{} binds {} bytes at once, {} experts: a layer's experts there lie in {slabs} bindings",
                        device.name,
                        device.max_binding_bytes,
                        costs.layout.slots_per_slab(costs.slot)
                    ));
                }
            }
            if plan.disk > 0 {
                notes.push(format!(
                    "{} bytes of experts stay on disk and are read through the page cache of {}",
                    plan.disk, device.name
                ));
            }
            if plan.streamed > 0 {
                notes.push(format!(
                    "{} experts are streamed into {} slots of {} when they are picked",
                    plan.streamed, plan.slots, device.name
                ));
            }
            if here == 0 && plan.layers.is_empty() && !plan.embedding && !plan.head {
                notes.push(format!("{} has nothing to do", device.name));
            }
        }
        if config.num_nextn_predict_layers > 0 {
            notes.push("the multi-token-prediction head is left out".to_owned());
        }
        notes
    }

    /// Why there is no plan, and what would help.
    fn refusal(&self) -> Result<Error, Error> {
        let memory = self.memories();
        // The device that could take most; a host before an adapter, since its memory is the larger as a rule.
        let device = (0..memory.len()).max_by_key(|device| memory[*device]).expect("there is a device");
        let works = |extra: u64, options: &EngineOptions| -> Result<bool, Error> {
            let mut memory = memory.clone();
            memory[device] = memory[device].saturating_add(extra).min(UNLIMITED);
            Ok(self.draft(&memory, options)?.is_some())
        };
        let options = self.request;
        if !works(UNLIMITED, options)? {
            let sizes =
                engine::sizes(options, engine::chunks(self.config(), options)?.last().copied().unwrap_or(1));
            return Ok(Error::OutOfMemory {
                device: self.devices[device].name.clone(),
                label: format!("a context of {} tokens", options.context),
                bytes: step::bytes(self.config(), sizes).largest_binding,
                limit: format!(
                    "max_storage_buffer_binding_size is {}",
                    self.devices[device].max_binding_bytes
                ),
            });
        }
        let (mut low, mut high) = (0, UNLIMITED);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if works(middle, options)? { high = middle } else { low = middle }
        }
        let mut ways_out = Vec::new();
        if !self.devices.iter().any(|device| device.host) {
            ways_out.push(
                "add `host` to the devices: what does not fit on the others is then computed from host memory"
                    .to_owned(),
            );
        }
        let mut shorter = options.clone();
        while shorter.context > 256 {
            shorter.context /= 2;
            if works(0, &shorter)? {
                ways_out.push(format!("shorten the context: `--ctx-size {}` fits", shorter.context));
                break;
            }
        }
        ways_out.push(format!("give {} {high} bytes more", self.devices[device].name));
        if ways_out.len() < 2 {
            ways_out.push("add a device".to_owned());
        }
        let weights = self.costs[device].whole;
        Ok(Error::DoesNotFit {
            what: format!(
                "the model ({weights} bytes of weights) with a context of {} tokens",
                options.context
            ),
            device: self.devices[device].name.clone(),
            shortfall: high,
            ways_out,
        })
    }
}

/// What takes time on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Memory,
    Compute,
    Link,
    Disk,
    Dispatches,
}

/// Seconds by device and what takes them.
#[derive(Clone, Debug, Default)]
struct Seconds(Vec<(usize, Limit, f64)>);

impl Seconds {
    fn add(&mut self, device: usize, limit: Limit, seconds: f64) {
        match self.0.iter_mut().find(|(d, l, _)| (*d, *l) == (device, limit)) {
            Some((_, _, sum)) => *sum += seconds,
            None => self.0.push((device, limit, seconds)),
        }
    }

    /// Reading and computing overlap.
    fn work(&mut self, index: usize, device: &Device, bytes: f64, operations: f64) {
        let (read, compute) = (bytes / device.bandwidth, operations / device.compute);
        if read >= compute {
            self.add(index, Limit::Memory, read);
        } else {
            self.add(index, Limit::Compute, compute);
        }
    }

    fn extend(&mut self, other: Seconds) {
        for (device, limit, seconds) in other.0 {
            self.add(device, limit, seconds);
        }
    }

    fn total(&self) -> f64 {
        self.0.iter().map(|(.., seconds)| seconds).sum()
    }

    fn largest(&self, devices: &[Device]) -> String {
        let largest = self.0.iter().max_by(|a, b| a.2.total_cmp(&b.2));
        let Some((device, limit, seconds)) = largest else { return "nothing".to_owned() };
        let what = match limit {
            Limit::Memory => "reading weights from its memory",
            Limit::Compute => "computing",
            Limit::Link => "its link",
            Limit::Disk => "reading from disk",
            Limit::Dispatches => "starting kernels",
        };
        format!("{}: {what} ({:.0} % of the time)", devices[*device].name, 100.0 * seconds / self.total())
    }
}

/// The layers among some items.
fn layers_of(run: &Range<usize>, layers: u32) -> Range<u32> {
    let clamp = |item: usize| item.saturating_sub(1).min(layers as usize) as u32;
    clamp(run.start)..clamp(run.end)
}

fn less(bytes: &ByKind, kind: Kind, by: u64) -> ByKind {
    let mut left = ByKind::default();
    for (of, amount) in bytes.rows() {
        left.add(of, if of == kind { amount - by } else { amount });
    }
    left
}

/// Divides `total` in proportion to `weights`, no part above its capacity; the sum is the smaller of `total` and all
/// capacities.
fn fill(total: u64, capacity: &[u64], weights: &[f64]) -> Vec<u64> {
    let mut parts = vec![0u64; capacity.len()];
    let mut left = total.min(capacity.iter().sum());
    while left > 0 {
        let open: Vec<usize> = (0..parts.len()).filter(|at| parts[*at] < capacity[*at]).collect();
        let all: f64 = open.iter().map(|at| weights[*at]).sum();
        let before = left;
        for at in &open {
            let wanted = (before as f64 * weights[*at] / all).floor() as u64;
            let take = wanted.min(capacity[*at] - parts[*at]).min(left);
            parts[*at] += take;
            left -= take;
        }
        if left == before {
            // Less than one each: the fastest first.
            let fastest = open.into_iter().max_by(|a, b| weights[*a].total_cmp(&weights[*b]).then(b.cmp(a)));
            let Some(at) = fastest else { break };
            parts[at] += 1;
            left -= 1;
        }
    }
    parts
}

/// `count` parts of which the first come from device `first` as far as its quota goes, the others from where most is left.
fn split_from(count: u64, quotas: &[u64], first: usize) -> Vec<u64> {
    let mine = count.min(quotas[first]);
    let mut others = quotas.to_vec();
    others[first] = 0;
    let mut parts = split(count - mine, &others);
    parts[first] = mine;
    parts
}

/// Divides `total`, at most their sum, in proportion to `weights`: whole numbers, no part above its weight.
fn split(total: u64, weights: &[u64]) -> Vec<u64> {
    let all: u64 = weights.iter().sum();
    if all == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: u64| u128::from(weight) * u128::from(total);
    let mut parts: Vec<u64> =
        weights.iter().map(|weight| (exact(*weight) / u128::from(all)) as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(exact(weights[*at]) % u128::from(all)), *at));
    let mut left = total - parts.iter().sum::<u64>();
    for at in order {
        if left > 0 && parts[at] < weights[at] {
            parts[at] += 1;
            left -= 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use porism_loader::catalog::{self, Catalogued};
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn math_v2() -> Catalogued {
        catalog::find("deepseek-math-v2").unwrap()
    }

    fn lite() -> Catalogued {
        catalog::find("deepseek-v2-lite").unwrap()
    }

    fn check(table: &dyn TensorTable, devices: &[Device], plan: &Plan) {
        let config = table.config();
        let mut experts = vec![0; devices.len()];
        for layer in 0..config.num_hidden_layers {
            let places = &plan.placement[layer as usize];
            let expected = if config.is_moe(layer) { config.n_routed_experts } else { 0 };
            assert_eq!(places.len(), expected as usize, "every expert of layer {layer} once");
            for place in places {
                experts[place.device] += 1;
            }
            let homes = plan.devices.iter().filter(|device| device.layers.contains(&layer)).count();
            assert_eq!(homes, 1, "layer {layer} has one home");
        }
        for ((device, profile), experts) in plan.devices.iter().zip(devices).zip(experts) {
            assert_eq!(device.experts + device.streamed, experts);
            assert!(device.total() <= profile.memory(), "{}: {device:?}", profile.name);
            assert!(device.streamed == 0 || device.slots >= config.num_experts_per_tok);
        }
        assert_eq!(plan.devices.iter().filter(|device| device.embedding).count(), 1);
        assert_eq!(plan.devices.iter().filter(|device| device.head).count(), 1);
        assert!(plan.predicted.decode_tokens_per_second > 0.0);
        assert!(plan.predicted.prefill_tokens_per_second.is_finite());
    }

    #[test]
    fn one_device_holds_the_whole_model_to_the_byte() {
        for (name, memory) in [("deepseek-math-v2", None), ("deepseek-v2-lite", Some(40 * GIB))] {
            let model = catalog::find(name).unwrap();
            for host in [false, true] {
                let device = if host {
                    Device::host(memory, 50e9)
                } else {
                    Device::adapter("card", memory, 900e9, 25e9)
                };
                let options = EngineOptions::new(4096);
                let plan = plan(&model, std::slice::from_ref(&device), &options).unwrap();
                let found = &plan.devices[0];
                let found = (found.weights.total(), found.cache, found.activations);
                let weights = Layout::new(&model, device.max_binding_bytes).model().unwrap().total();
                let bytes = step::bytes(TensorTable::config(&model), engine::sizes(&options, plan.chunk));
                let expected = (weights, bytes.cache, bytes.activations);
                assert_eq!(found, expected, "{name}, host {host}");
            }
        }
    }

    #[test]
    fn the_real_model_is_spread_over_a_mixed_rig() {
        let model = math_v2();
        let mut devices: Vec<Device> = [("A", 960e9), ("B", 960e9), ("C", 1008e9), ("D", 936e9)]
            .into_iter()
            .map(|(name, rate)| Device::adapter(name, Some(24 * GIB), rate, 25e9))
            .collect();
        devices.push(Device::host(Some(512 * GIB), 300e9));
        let plan = plan(&model, &devices, &EngineOptions::new(8192)).unwrap();
        check(&model, &devices, &plan);
        assert!(plan.devices[..4].iter().all(|device| !device.layers.is_empty() && device.experts > 100));
        assert!(plan.devices[4].layers.is_empty() && plan.devices[4].disk > 0);
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_shortfall_and_two_ways_out() {
        let model = math_v2();
        let devices = [Device::adapter("card", Some(8 * GIB), 900e9, 25e9)];
        let Err(Error::DoesNotFit { shortfall, ways_out, device, .. }) =
            plan(&model, &devices, &EngineOptions::new(4096))
        else {
            panic!("8 GiB cannot hold it")
        };
        assert!(ways_out.len() >= 2, "{ways_out:?}");
        assert_eq!(device, "card");
        let enough = [Device::adapter("card", Some(8 * GIB + shortfall), 900e9, 25e9)];
        check(&model, &enough, &plan(&model, &enough, &EngineOptions::new(4096)).unwrap());
        let short = [Device::adapter("card", Some(8 * GIB + shortfall - 1), 900e9, 25e9)];
        assert!(plan(&model, &short, &EngineOptions::new(4096)).is_err());
    }

    #[test]
    fn hot_experts_go_to_adapters() {
        let model = lite();
        let config = TensorTable::config(&model).clone();
        let uses = (0..config.num_hidden_layers)
            .map(|layer| {
                let count = if config.is_moe(layer) { config.n_routed_experts } else { 0 };
                (0..count).map(|expert| if expert % 4 == 1 { 1000 } else { 1 }).collect()
            })
            .collect();
        let heat = Heat { uses };
        heat.check(&config).unwrap();
        let devices =
            [Device::adapter("card", Some(14 * GIB), 900e9, 25e9), Device::host(Some(64 * GIB), 50e9)];
        let with_heat =
            plan(&model, &devices, &EngineOptions { heat: Some(heat), ..EngineOptions::new(2048) }).unwrap();
        check(&model, &devices, &with_heat);
        let places = &with_heat.placement[5];
        assert!((0..64).filter(|expert| expert % 4 == 1).all(|expert| places[expert].device == 0));
        let without = plan(&model, &devices, &EngineOptions::new(2048)).unwrap();
        assert!(
            with_heat.predicted.decode_tokens_per_second > without.predicted.decode_tokens_per_second,
            "{:?} {:?}",
            with_heat.predicted,
            without.predicted
        );
    }

    #[test]
    fn parts_keep_their_proportions() {
        assert_eq!(fill(10, &[100, 100], &[3.0, 1.0]), [8, 2]);
        assert_eq!(fill(10, &[2, 100], &[3.0, 1.0]), [2, 8]);
        assert_eq!(fill(10, &[2, 3], &[3.0, 1.0]), [2, 3]);
        assert_eq!(split(5, &[3, 3, 3]), [2, 2, 1]);
        assert_eq!(split(9, &[3, 3, 3]), [3, 3, 3]);
    }

    fn rigs() -> impl Strategy<Value = Vec<Device>> {
        let adapter = (1u64..48 * 1024, 50.0..1500.0f64, 5.0..60.0f64, 27u32..33).prop_map(
            |(mib, rate, link, binding)| Device {
                max_binding_bytes: (1 << binding) - 4,
                ..Device::adapter("adapter", Some(mib << 20), rate * 1e9, link * 1e9)
            },
        );
        let host =
            (1u64..128, 10.0..400.0f64).prop_map(|(gib, rate)| Device::host(Some(gib * GIB), rate * 1e9));
        (proptest::collection::vec(adapter, 0..5), proptest::option::of(host)).prop_filter_map(
            "a rig has a device",
            |(mut devices, host)| {
                devices.extend(host);
                (!devices.is_empty()).then_some(devices)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn plans_keep_their_promises(devices in rigs(), context in 1usize..20_000) {
            let model = lite();
            match plan(&model, &devices, &EngineOptions::new(context)) {
                Ok(plan) => check(&model, &devices, &plan),
                Err(Error::DoesNotFit { shortfall, ways_out, .. }) => {
                    prop_assert!(shortfall > 0);
                    prop_assert!(ways_out.len() >= 2);
                }
                Err(Error::OutOfMemory { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn more_memory_never_hurts(devices in rigs(), which in 0usize..5, more in 1u64..20_000) {
            let model = lite();
            let Ok(before) = plan(&model, &devices, &EngineOptions::new(4096)) else { return Ok(()) };
            let mut larger = devices.clone();
            let which = which % larger.len();
            larger[which].memory = larger[which].memory.map(|memory| memory + (more << 20));
            let after = plan(&model, &larger, &EngineOptions::new(4096));
            prop_assert!(after.is_ok(), "{:?}", after.err());
            let after = after.unwrap();
            let homes = |plan: &Plan| plan.devices.iter().map(|device| device.layers.clone()).collect::<Vec<_>>();
            if after.chunk == before.chunk && homes(&after) == homes(&before) {
                let kept = |plan: &Plan| {
                    let all = plan.devices.iter().zip(&devices).filter(|(_, device)| !device.host);
                    all.map(|(device, _)| device.experts).sum::<u32>()
                };
                prop_assert!(kept(&after) >= kept(&before), "{} {}", kept(&after), kept(&before));
            }
        }
    }
}
