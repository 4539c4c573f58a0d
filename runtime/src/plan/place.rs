//! Who gets which layers and experts, and every byte of it.

use std::ops::Range;

use porism_loader::{Kind, ModelConfig, TensorTable};

use super::cost::Load;
use super::result::{DevicePlan, Files, Note, Place, Plan};
use crate::device::{Device, Staging};
use crate::error::Error;
use crate::model::buffers;
use crate::model::sizes::Sizes;
use crate::options::{EngineOptions, Spread};
use crate::weights::layout::{ByKind, Layout, Slot};

/// What parts of a model take on a device: the embedding, each layer, the head.
pub(super) struct Costs<'t> {
    pub(super) layout: Layout<'t>,
    /// Without routed experts. Sums over the items before each.
    dense: Vec<u64>,
    pub(super) slot: Slot,
    /// All of it, routed experts included.
    pub(super) whole: u64,
}

impl<'t> Costs<'t> {
    pub(super) fn new(table: &'t dyn TensorTable, device: &Device) -> Result<Self, Error> {
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
pub(super) struct Draft {
    /// Items of each device: 0 is the embedding, then the layers, then the head.
    runs: Vec<Range<usize>>,
    /// Experts that each device may keep.
    quotas: Vec<u64>,
    /// Index of the device that takes what no adapter keeps, if there is a host with room to compute in.
    host: Option<usize>,
    chunk: usize,
    /// Experts that each device has room for.
    capacity: Vec<u64>,
}

/// What a device needs room for.
#[derive(Clone, Copy)]
struct Room {
    /// Each home streams experts into slots.
    slots: bool,
    /// The host needs none for weights: all of them may stay on disk.
    from_disk: bool,
}

pub(super) struct Problem<'p> {
    pub(super) table: &'p dyn TensorTable,
    pub(super) devices: &'p [Device],
    pub(super) costs: &'p [Costs<'p>],
    pub(super) request: &'p EngineOptions,
}

impl Problem<'_> {
    pub(super) fn config(&self) -> &ModelConfig {
        self.table.config()
    }

    pub(super) fn memories(&self) -> Vec<u64> {
        self.devices.iter().map(Device::memory).collect()
    }

    pub(super) fn moe_layers(&self) -> Vec<u32> {
        let config = self.config();
        (0..config.num_hidden_layers).filter(|layer| config.is_moe(*layer)).collect()
    }

    /// The plan for devices of these sizes, if there is one.
    pub(super) fn solve(&self, memory: &[u64]) -> Result<Option<Plan>, Error> {
        let Some(draft) = self.draft(memory, self.request)? else { return Ok(None) };
        let spread = self.request.spread;
        if spread != Spread::Best || self.devices.len() == 1 {
            return self.finish(&draft, memory, spread).map(Some);
        }
        let [home, all] = [Spread::Home, Spread::All].map(|spread| self.finish(&draft, memory, spread));
        let (home, all) = (home?, all?);
        // By rates that do not change from one run to the next.
        let lasting: Vec<Device> =
            self.devices.iter().map(|device| Device { rates: device.nominal, ..device.clone() }).collect();
        let lasting = Problem { devices: &lasting, ..*self };
        let load = Load::of(self.request);
        let rate = |plan: &Plan| -> Result<f64, Error> {
            let predicted = lasting.predict(&plan.devices, &plan.placement, draft.chunk, &load)?;
            Ok(predicted.decode_tokens_per_second)
        };
        Ok(Some(if rate(&home)? >= rate(&all)? { home } else { all }))
    }

    pub(super) fn draft(&self, memory: &[u64], options: &EngineOptions) -> Result<Option<Draft>, Error> {
        let chunks = options.chunks(self.config())?;
        let has_host = self.devices.iter().any(|device| device.host);
        // Weights that every token needs are read from disk at every step only where there is no other way.
        for from_disk in [false, true] {
            if from_disk && !has_host {
                continue;
            }
            for slots in [false, true] {
                for chunk in &chunks {
                    let room = Room { slots, from_disk };
                    if let Some(draft) = self.try_chunk(memory, options, *chunk, room) {
                        return Ok(Some(draft));
                    }
                    // One device is filled as the engine does it: a smaller step rather than streamed experts. Among
                    // several the step shrinks only where the plan would fail otherwise.
                    let streaming = Room { slots: true, from_disk };
                    let several = self.devices.len() > 1 && !slots;
                    if several && self.try_chunk(memory, options, *chunk, streaming).is_some() {
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    fn try_chunk(&self, memory: &[u64], options: &EngineOptions, chunk: usize, room: Room) -> Option<Draft> {
        let Room { slots, from_disk } = room;
        let config = self.config();
        let sizes = options.sizes(chunk);
        let layers = config.num_hidden_layers;
        let items = layers as usize + 2;
        let host = self.devices.iter().position(|device| device.host);
        let has_adapter = self.devices.iter().any(|device| !device.host);
        let whole = buffers::bytes_of_layers(config, sizes, 0..0);
        let caches: Vec<u64> = (0..layers)
            .map(|layer| buffers::bytes_of_layers(config, sizes, layer..layer + 1).cache)
            .collect();
        let largest = buffers::bytes(config, sizes).largest_binding;
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
            if from_disk && profile.host {
                bytes = 0;
            }
            let home = layers_of(run, layers);
            bytes += caches[home.start as usize..home.end as usize].iter().sum::<u64>();
            let moe = home.filter(|layer| config.is_moe(*layer)).count() as u64;
            if slots && moe > 0 && !profile.host {
                bytes += picks * costs.slot.total() + moe * costs.table_bytes(experts);
            }
            bytes + whole.activations + self.staging(device, memory[device], sizes, true).bytes()
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
        let weight = |device: &Device| if device.host && has_adapter { 0.0 } else { device.weight() };
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
                    buffers::bytes_for_experts(config, sizes)
                        + self.staging(device, memory[device], sizes, false).bytes()
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
            _ => fill(total, &capacity, &self.devices.iter().map(Device::weight).collect::<Vec<_>>()),
        };
        let left = total - quotas.iter().sum::<u64>();
        // A host that is no home still needs room to compute in. One that has none is as good as none.
        let host = host.filter(|host| {
            let staging = self.staging(*host, memory[*host], sizes, false).bytes();
            !runs[*host].is_empty() || buffers::bytes_for_experts(config, sizes) + staging <= memory[*host]
        });
        if left > 0 && host.is_none() && !slots {
            return None;
        }
        Some(Draft { runs, quotas, host, chunk, capacity })
    }

    fn fits_whole(&self, memory: u64, options: &EngineOptions, chunk: usize) -> bool {
        let config = self.config();
        let sizes = options.sizes(chunk);
        let bytes = buffers::bytes(config, sizes);
        let staging = self.staging(0, memory, sizes, true).bytes();
        self.costs[0].whole + bytes.cache + bytes.activations + staging <= memory
    }

    /// What a device's executor needs besides buffers; `home`: for more than experts of others' layers.
    fn staging(&self, device: usize, memory: u64, sizes: Sizes, home: bool) -> Staging {
        let profile = &self.devices[device];
        if profile.host {
            return Staging::host(self.config(), sizes, home);
        }
        let memory = profile.memory.map(|_| memory);
        Staging::adapter(self.config(), sizes, self.costs[device].whole, memory)
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
        let sizes = options.sizes(draft.chunk);
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
            let used = buffers::bytes_of_layers(config, sizes, home.clone());
            let (cache, activations) = if !run.is_empty() {
                (used.cache, used.activations)
            } else if experts > 0 {
                (0, buffers::bytes_for_experts(config, sizes))
            } else {
                (0, 0)
            };
            let idle = run.is_empty() && experts == 0;
            let staging = if idle {
                Staging::default()
            } else {
                self.staging(index, memory[index], sizes, !run.is_empty())
            };
            let mut slots = 0;
            if in_slots {
                let fixed = weights.total() + cache + activations + staging.bytes();
                slots = self.slots(index, memory[index].saturating_sub(fixed), experts + streamed);
                weights.extend(&costs.layout.pool(costs.slot, slots.into()));
            }
            let mut disk = ByKind::default();
            if profile.host {
                let room = memory[index].saturating_sub(cache + activations + staging.bytes());
                (weights, disk) = kept(&weights, room);
            }
            devices.push(DevicePlan {
                weights,
                disk,
                files: Files::default(),
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
        self.place_files(&mut devices, &placement, memory)?;
        let predicted = self.predict(&devices, &placement, draft.chunk, &Load::of(self.request))?;
        let notes = self.notes(&devices);
        Ok(Plan { devices, placement, chunk: draft.chunk, predicted, notes })
    }

    /// Streamed experts are in the files: as pages in host memory as far as it goes, beyond that on disk.
    fn place_files(
        &self,
        devices: &mut [DevicePlan],
        placement: &[Vec<Place>],
        memory: &[u64],
    ) -> Result<(), Error> {
        let host = self.devices.iter().position(|device| device.host);
        let mut room = match host {
            Some(host) => memory[host] - devices[host].total(),
            None => self.request.page_cache.unwrap_or(0),
        };
        let mut streamed = vec![0u64; devices.len()];
        for (layer, places) in (0u32..).zip(placement).filter(|(_, places)| !places.is_empty()) {
            let bytes = self.costs[0].layout.expert(layer)?.bytes;
            for place in places.iter().filter(|place| !place.resident) {
                streamed[place.device] += bytes;
            }
        }
        let mut left: u64 = streamed.iter().sum();
        for (device, bytes) in devices.iter_mut().zip(streamed).filter(|(_, bytes)| *bytes > 0) {
            // In proportion to what each streams.
            let kept = (u128::from(room.min(left)) * u128::from(bytes)).div_ceil(u128::from(left)) as u64;
            let kept = kept.min(bytes).min(room);
            device.files = Files { page_cache: kept, disk: bytes - kept };
            (room, left) = (room - kept, left - bytes);
        }
        Ok(())
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
    pub(super) fn shares(&self) -> Vec<Vec<f64>> {
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
                        (load[*device] + share[expert] + 1e-9) / self.devices[*device].weight()
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
        let weights: Vec<f64> = self.devices.iter().map(Device::weight).collect();
        let more = fill(kept.saturating_sub(quotas.iter().sum()), &room, &weights);
        for (quota, more) in quotas.iter_mut().zip(more) {
            *quota += more;
        }
        quotas
    }

    fn notes(&self, plans: &[DevicePlan]) -> Vec<Note> {
        let mut notes = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            let (device, costs) = (&self.devices[index], &self.costs[index]);
            let here = plan.experts + plan.streamed;
            if !device.host && here > 0 {
                let per_layer = here.div_ceil(self.moe_layers().len().max(1) as u32);
                let experts = costs.layout.slots_per_slab(costs.slot);
                let bindings = u64::from(per_layer).div_ceil(experts.max(1));
                if bindings > 1 {
                    let at_once = device.max_binding_bytes;
                    notes.push(Note::Bindings { device: index, at_once, experts, bindings });
                }
            }
            if plan.streamed > 0 {
                notes.push(Note::Streamed {
                    device: index,
                    experts: plan.streamed,
                    slots: plan.slots,
                    files: plan.files,
                });
            }
            if plan.disk.total() > 0 {
                let experts = plan.disk.of(Kind::RoutedExpert);
                let always = plan.disk.total() - experts - plan.disk.of(Kind::Embedding);
                notes.push(Note::Disk { device: index, experts, always });
            }
            if here == 0 && plan.layers.is_empty() && !plan.embedding && !plan.head {
                notes.push(Note::Idle { device: index });
            }
        }
        if self.config().num_nextn_predict_layers > 0 {
            notes.push(Note::NoMultiTokenPrediction);
        }
        notes
    }
}

/// The layers among some items.
fn layers_of(run: &Range<usize>, layers: u32) -> Range<u32> {
    let clamp = |item: usize| item.saturating_sub(1).min(layers as usize) as u32;
    clamp(run.start)..clamp(run.end)
}

/// The host's weights that stay in `room` bytes of memory, and those that are read from disk. What is wanted least goes
/// first: rows of the embedding, of which a token reads one; routed experts, of which it picks some; the others all alike.
fn kept(weights: &ByKind, room: u64) -> (ByKind, ByKind) {
    let (mut stay, mut disk) = (*weights, ByKind::default());
    let mut over = weights.total().saturating_sub(room);
    let mut leave = |kind: Kind, bytes: u64| {
        stay.remove(kind, bytes);
        disk.add(kind, bytes);
    };
    for kind in [Kind::Embedding, Kind::RoutedExpert] {
        let bytes = over.min(weights.of(kind));
        leave(kind, bytes);
        over -= bytes;
    }
    let rest = |kind: &Kind| !matches!(kind, Kind::Embedding | Kind::RoutedExpert);
    let mut left: u64 = weights.rows().filter(|(kind, _)| rest(kind)).map(|(_, bytes)| bytes).sum();
    for (kind, bytes) in weights.rows().filter(|(kind, _)| rest(kind)) {
        let part = (u128::from(over) * u128::from(bytes)).div_ceil(u128::from(left)) as u64;
        let part = part.min(bytes).min(over);
        leave(kind, part);
        (over, left) = (over - part, left - bytes);
    }
    (stay, disk)
}

/// Divides `total` in proportion to `weights`, no part above its capacity; the sum is the smaller of `total` and all
/// capacities.
pub(super) fn fill(total: u64, capacity: &[u64], weights: &[f64]) -> Vec<u64> {
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
pub(super) fn split(total: u64, weights: &[u64]) -> Vec<u64> {
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
