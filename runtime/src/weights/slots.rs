//! Experts that come and go: slots on an adapter, which expert is in which, and which has to leave.
//!
//! [`Residency`] is bookkeeping alone and [`Policy`] is data, so that both can be tried on a trace without a device;
//! [`Pool`] is a residency with the buffers behind it. What an expert computes never depends on its slot.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use porism_loader::{Checkpoint, Tensor};
use porism_shaders::kernels::segments::{ABSENT, SlotEntry};
use serde::Serialize;

use super::load::Fill;
use super::pieces::{Slab, SlotLayout};
use super::place::{expert_roles, expert_tensors, scales_of};
use crate::device::Executor;
use crate::error::Error;
use crate::options::{HALF_LIFE, Policy};
use crate::recording::View;

/// Layer and expert.
pub type Key = (u32, u32);

/// What happened to a pool of slots so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PoolFacts {
    /// Slots.
    pub slots: usize,
    /// Picked experts that were there.
    pub hits: u64,
    /// Picked experts that had to be brought.
    pub misses: u64,
    /// Experts brought before they were picked.
    pub prefetched: u64,
    /// Bytes brought.
    pub bytes_moved: u64,
    /// Experts whose bytes were asked for before the first of those that come together was brought.
    pub asked_ahead: u64,
    /// Experts that were looked through for codes that are not numbers when they were brought: each once.
    pub looked_through: u64,
    /// Seconds of the CPU for bringing picked experts; the device may have been at work meanwhile.
    pub seconds_waited: f64,
}

/// An expert's turn: the slots of the experts that are computed together, and who comes into which before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Experts to bring, with their slots.
    pub loads: Vec<(u32, usize)>,
    /// Experts to compute, with their slots.
    pub experts: Vec<(u32, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    key: Key,
    pinned: bool,
    /// When it was used last, in uses of the pool.
    last: u64,
    /// Decayed number of uses, as of step `at`.
    heat: f64,
    at: u64,
}

/// Which expert is in which slot.
#[derive(Clone, Debug)]
pub struct Residency {
    policy: Policy,
    slots: Vec<Option<Guest>>,
    places: HashMap<Key, usize>,
    /// Decayed uses of experts that left, so that they are known when they come back.
    remembered: HashMap<Key, (f64, u64)>,
    step: u64,
    uses: u64,
}

impl Residency {
    /// Empty slots.
    pub fn new(policy: Policy, slots: usize) -> Self {
        Residency {
            policy,
            slots: vec![None; slots],
            places: HashMap::new(),
            remembered: HashMap::new(),
            step: 0,
            uses: 0,
        }
    }

    /// Puts an expert of the plan into an empty slot; under [`Policy::Pinned`] for good. `None` when all are taken.
    pub fn settle(&mut self, key: Key) -> Option<usize> {
        let slot = self.slots.iter().position(Option::is_none)?;
        let pinned = self.policy == Policy::Pinned;
        self.slots[slot] = Some(Guest { key, pinned, last: 0, heat: 0.0, at: 0 });
        self.places.insert(key, slot);
        Some(slot)
    }

    /// A new step begins: one pass of some tokens through all layers.
    pub fn next_step(&mut self) {
        self.step += 1;
    }

    /// Where an expert is.
    pub fn place(&self, key: Key) -> Option<usize> {
        self.places.get(&key).copied()
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The turns in which the picked experts of a layer, ascending and each once, are computed: those that are there
    /// first, so that the device has work while others are brought; then the others, as many at once as find a slot.
    pub fn rounds(&mut self, layer: u32, picked: &[u32]) -> Vec<Round> {
        let mut rounds = Vec::new();
        let mut busy = vec![false; self.slots.len()];
        let mut round = Round::default();
        let mut absent = Vec::new();
        for expert in picked {
            match self.place((layer, *expert)) {
                Some(slot) => {
                    busy[slot] = true;
                    self.touch(slot);
                    round.experts.push((*expert, slot));
                }
                None => absent.push(*expert),
            }
        }
        if !round.experts.is_empty() {
            rounds.push(std::mem::take(&mut round));
        }
        for expert in absent {
            let slot = match self.victim(&busy) {
                Some(slot) => slot,
                None => {
                    // All slots have experts of this layer: those were computed when the next turn begins.
                    if !round.experts.is_empty() {
                        rounds.push(std::mem::take(&mut round));
                    }
                    busy.fill(false);
                    self.victim(&busy).expect("a pool has a slot that nobody is pinned to")
                }
            };
            self.admit((layer, expert), slot);
            busy[slot] = true;
            self.touch(slot);
            round.loads.push((expert, slot));
            round.experts.push((expert, slot));
        }
        if !round.experts.is_empty() {
            rounds.push(round);
        }
        rounds
    }

    /// Lets an expert in that will probably be picked next, unless it is there or nobody less wanted is.
    pub fn prefetch(&mut self, key: Key, busy: &[usize]) -> Option<usize> {
        if self.places.contains_key(&key) {
            return None;
        }
        let mut taken = vec![false; self.slots.len()];
        for slot in busy {
            taken[*slot] = true;
        }
        let slot = self.victim(&taken)?;
        if self.policy != Policy::Lfru {
            // Layers come round: whoever was not used for longest is wanted next.
            if self.slots[slot].is_some() {
                return None;
            }
        } else {
            let wanted = self.remembered.get(&key).map_or(0.0, |(heat, at)| self.decayed(*heat, *at));
            if self.slots[slot].is_some_and(|guest| self.decayed(guest.heat, guest.at) >= wanted) {
                return None;
            }
        }
        self.admit(key, slot);
        Some(slot)
    }

    /// Takes an expert out whose bytes did not arrive: its slot holds those of another.
    pub fn forget(&mut self, key: Key) {
        if let Some(slot) = self.places.remove(&key) {
            self.slots[slot] = None;
        }
    }

    fn decayed(&self, heat: f64, at: u64) -> f64 {
        heat * (-((self.step - at) as f64) / HALF_LIFE).exp2()
    }

    fn touch(&mut self, slot: usize) {
        self.uses += 1;
        let (uses, step) = (self.uses, self.step);
        let guest = self.slots[slot].expect("in use");
        let heat = self.decayed(guest.heat, guest.at) + 1.0;
        self.slots[slot] = Some(Guest { last: uses, heat, at: step, ..guest });
    }

    /// The slot whose guest may leave first.
    fn victim(&self, busy: &[bool]) -> Option<usize> {
        let free = (0..self.slots.len()).filter(|slot| !busy[*slot]);
        let free = free.filter(|slot| !self.slots[*slot].is_some_and(|guest| guest.pinned));
        free.min_by(|a, b| {
            let rank = |slot: &usize| match self.slots[*slot] {
                None => (f64::NEG_INFINITY, 0),
                Some(guest) if self.policy == Policy::Lfru => {
                    (self.decayed(guest.heat, guest.at), guest.last)
                }
                Some(guest) => (0.0, guest.last),
            };
            let (a, b) = (rank(a), rank(b));
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
        })
    }

    fn admit(&mut self, key: Key, slot: usize) {
        if let Some(guest) = self.slots[slot].take() {
            self.places.remove(&guest.key);
            self.remembered.insert(guest.key, (guest.heat, guest.at));
        }
        let (heat, at) = self.remembered.remove(&key).unwrap_or((0.0, self.step));
        self.slots[slot] = Some(Guest { key, pinned: false, last: self.uses, heat, at });
        self.places.insert(key, slot);
    }
}

/// Slots on a device, shared by all layers whose experts are streamed to it.
pub struct Pool<'c> {
    checkpoint: &'c Checkpoint,
    residency: Residency,
    slabs: Vec<Slab>,
    slots_per_slab: usize,
    /// Bytes and scales of a slot, the largest of all layers.
    slot_bytes: u64,
    slot_scales: u32,
    /// By layer; none where there are no experts.
    layouts: Vec<Option<SlotLayout>>,
    /// Experts that this device computes, by layer and expert.
    mine: Vec<Vec<bool>>,
    /// What was picked of each layer by the last step.
    last_picks: Vec<Vec<u32>>,
    /// Experts whose codes are known to be numbers, for as long as the shards are those that were opened: each step
    /// begins with [`Checkpoint::check_shards`].
    looked_through: HashSet<Key>,
    facts: PoolFacts,
    table: Vec<SlotEntry>,
}

impl<'c> Pool<'c> {
    /// Slots for the experts that `mine` names, by layer and expert, and the buffers for them.
    pub fn allocate(
        executor: &mut dyn Executor<'c>,
        checkpoint: &'c Checkpoint,
        policy: Policy,
        slots: usize,
        mine: Vec<Vec<bool>>,
        layout_of: impl Fn(u32) -> SlotLayout,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let layouts: Vec<Option<SlotLayout>> = (0..config.num_hidden_layers)
            .map(|layer| config.is_moe(layer).then(|| layout_of(layer)))
            .collect();
        for (layer, layout) in (0u32..).zip(&layouts) {
            if let Some(layout) = layout {
                for (expert, _) in (0u32..).zip(&mine[layer as usize]).filter(|(_, mine)| **mine) {
                    // Refuses a layer whose experts are not stored alike.
                    expert_tensors(checkpoint, layer, expert, layout)?;
                }
            }
        }
        let slot_bytes = layouts.iter().flatten().map(|layout| layout.bytes).max().unwrap_or(16);
        let slot_scales = layouts.iter().flatten().map(|layout| layout.scales).max().unwrap_or(0);
        let limit = executor.tuning().max_binding_bytes.min(u64::from(u32::MAX));
        let slots_per_slab = (limit / slot_bytes) as usize;
        if slots_per_slab == 0 {
            return Err(Error::Unsupported(format!(
                "one expert is {slot_bytes} bytes, more than this device binds at once ({limit})"
            )));
        }
        let mut buffer = |label: &str, bytes: u64| -> Result<View, Error> {
            Ok(View { buffer: executor.allocate(label, bytes)?, offset: 0, bytes })
        };
        let scales = buffer("slot scales", scale_bytes(slots as u64, slot_scales.into()))?;
        let mut slabs = Vec::new();
        let mut left = slots;
        while left > 0 {
            let here = left.min(slots_per_slab);
            let weights = buffer("slots", here as u64 * slot_bytes)?;
            let table = buffer("slot table", TABLE_ENTRY_BYTES * u64::from(config.n_routed_experts))?;
            slabs.push(Slab { weights, scales, slots: table });
            left -= here;
        }
        Ok(Pool {
            checkpoint,
            residency: Residency::new(policy, slots),
            slabs,
            slots_per_slab,
            slot_bytes,
            slot_scales,
            last_picks: vec![Vec::new(); layouts.len()],
            layouts,
            mine,
            looked_through: HashSet::new(),
            facts: PoolFacts { slots, ..PoolFacts::default() },
            table: Vec::new(),
        })
    }

    /// Gives slots to the experts that the plan puts here to begin with, in the order given, until they are full, and
    /// says what has to be brought there.
    pub fn settle(&mut self, executor: &mut dyn Executor<'c>, keys: &[Key]) -> Result<Vec<Fill>, Error> {
        let mut fills = Vec::new();
        for key in keys {
            let Some(slot) = self.residency.settle(*key) else { break };
            let (weights, base) = self.slot(slot);
            let parts = self.parts(*key)?;
            for (offset, tensor) in &parts {
                self.checkpoint.check_scales(tensor)?;
                let from = self.checkpoint.location(tensor.role).expect("a tensor is somewhere");
                let length = from.bytes().next_multiple_of(4);
                fills.push(Fill { to: weights.slice(base + offset, length), from });
            }
            self.write_scales(executor, slot, &parts)?;
            // Its codes are looked through on their way.
            self.looked_through.insert(*key);
        }
        Ok(fills)
    }

    /// Bytes of its buffers.
    pub fn bytes(&self) -> u64 {
        let slabs: u64 = self.slabs.iter().map(|slab| slab.weights.bytes + slab.slots.bytes).sum();
        slabs + self.slabs.first().map_or(0, |slab| slab.scales.bytes)
    }

    /// What happened so far.
    pub fn facts(&self) -> PoolFacts {
        self.facts
    }

    /// How experts of a layer lie in their slots.
    pub fn layout(&self, layer: u32) -> SlotLayout {
        self.layouts[layer as usize].expect("a layer with experts")
    }

    /// A new step begins.
    pub fn next_step(&mut self) {
        self.residency.next_step();
    }

    /// The turns in which the picked experts of a layer are computed, ascending and each once.
    pub fn rounds(&mut self, layer: u32, picked: &[u32]) -> Vec<Round> {
        let rounds = self.residency.rounds(layer, picked);
        let misses: usize = rounds.iter().map(|round| round.loads.len()).sum();
        self.facts.misses += misses as u64;
        self.facts.hits += (picked.len() - misses) as u64;
        self.last_picks[layer as usize] = picked.to_vec();
        for (expert, _) in rounds.iter().flat_map(|round| &round.loads) {
            self.ask_for((layer, *expert));
        }
        rounds
    }

    /// Asks the disk for an expert that will be brought.
    fn ask_for(&mut self, key: Key) {
        for role in expert_roles(key.0, key.1) {
            self.checkpoint.read_ahead(role);
        }
        self.facts.asked_ahead += 1;
    }

    /// Brings what a turn needs.
    pub fn load(&mut self, executor: &mut dyn Executor<'c>, layer: u32, round: &Round) -> Result<(), Error> {
        let started = Instant::now();
        for (expert, slot) in &round.loads {
            self.write(executor, (layer, *expert), *slot)?;
        }
        self.facts.seconds_waited += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Brings experts that the layer will probably pick: those it picked in the step before. `busy`: slots whose experts
    /// may be at work.
    pub fn prefetch(
        &mut self,
        executor: &mut dyn Executor<'c>,
        layer: u32,
        busy: &mut Vec<usize>,
    ) -> Result<(), Error> {
        let mut loads = Vec::new();
        for expert in self.last_picks[layer as usize].clone() {
            if let Some(slot) = self.residency.prefetch((layer, expert), busy) {
                busy.push(slot);
                self.ask_for((layer, expert));
                loads.push((expert, slot));
            }
        }
        for (number, (expert, slot)) in loads.iter().enumerate() {
            if let Err(error) = self.write(executor, (layer, *expert), *slot) {
                for (expert, _) in &loads[number..] {
                    self.residency.forget((layer, *expert));
                }
                return Err(error);
            }
            self.facts.prefetched += 1;
        }
        Ok(())
    }

    /// After a failure: whoever these turns were to bring may not have come.
    pub fn forget(&mut self, layer: u32, rounds: &[Round]) {
        for (expert, _) in rounds.iter().flat_map(|round| &round.loads) {
            self.residency.forget((layer, *expert));
        }
    }

    /// Whether an expert has a slot.
    pub fn holds(&self, key: Key) -> bool {
        self.residency.place(key).is_some()
    }

    /// Experts of the plan that left before they were there, so that nobody looked them through.
    pub fn did_not_come(&mut self, keys: &[Key]) {
        for key in keys {
            self.looked_through.remove(key);
        }
    }

    /// Whether the device computes experts of this layer.
    pub fn has_layer(&self, layer: u32) -> bool {
        self.mine[layer as usize].contains(&true)
    }

    /// The slabs that hold the experts of a turn, each with its table of them.
    pub fn tables(&mut self, round: &Round, mut each: impl FnMut(View, &[SlotEntry])) -> Vec<Slab> {
        let experts = self.checkpoint.config().n_routed_experts as usize;
        let mut used = Vec::new();
        for (index, slab) in self.slabs.iter().enumerate() {
            let first = index * self.slots_per_slab;
            let inside = |slot: &usize| (first..first + self.slots_per_slab).contains(slot);
            if !round.experts.iter().any(|(_, slot)| inside(slot)) {
                continue;
            }
            self.table.clear();
            self.table.resize(experts, ABSENT);
            for (expert, slot) in round.experts.iter().filter(|(_, slot)| inside(slot)) {
                let offset = (slot - first) as u64 * self.slot_bytes;
                self.table[*expert as usize] = [(offset / 16) as u32, *slot as u32 * self.slot_scales];
            }
            each(slab.slots, &self.table);
            used.push(*slab);
        }
        used
    }

    /// The slab of a slot, and the slot's first byte in it.
    fn slot(&self, slot: usize) -> (View, u64) {
        let base = (slot % self.slots_per_slab) as u64 * self.slot_bytes;
        (self.slabs[slot / self.slots_per_slab].weights, base)
    }

    /// The matrices of an expert, each with its first byte in a slot.
    fn parts(&self, key: Key) -> Result<[(u64, Tensor<'c>); 3], Error> {
        expert_tensors(self.checkpoint, key.0, key.1, &self.layout(key.0))
    }

    fn write(&mut self, executor: &mut dyn Executor<'c>, key: Key, slot: usize) -> Result<(), Error> {
        let parts = self.parts(key)?;
        if !self.looked_through.contains(&key) {
            for (_, tensor) in &parts {
                self.checkpoint.check_numbers(tensor)?;
            }
            self.looked_through.insert(key);
            self.facts.looked_through += 1;
        }
        let (weights, base) = self.slot(slot);
        for (offset, tensor) in &parts {
            let length = tensor.bytes.len() as u64;
            executor.write(weights.slice(base + offset, length), tensor.bytes)?;
            self.facts.bytes_moved += length;
        }
        self.facts.bytes_moved += self.write_scales(executor, slot, &parts)?;
        Ok(())
    }

    /// Writes the scales of an expert to its slot, and says how many bytes they are.
    fn write_scales(
        &self,
        executor: &mut dyn Executor<'c>,
        slot: usize,
        parts: &[(u64, Tensor<'c>); 3],
    ) -> Result<u64, Error> {
        let scales: Vec<f32> =
            parts.iter().flat_map(|(_, tensor)| scales_of(*tensor, 0, tensor.shape.rows())).collect();
        if scales.is_empty() {
            return Ok(0);
        }
        let bytes = size_of_val(&scales[..]) as u64;
        let at = slot as u64 * u64::from(self.slot_scales) * 4;
        let all = self.slabs[slot / self.slots_per_slab].scales;
        executor.write(all.slice(at, bytes), bytemuck::cast_slice(&scales))?;
        Ok(bytes)
    }
}

/// Bytes of an expert's entry in a table.
pub(crate) const TABLE_ENTRY_BYTES: u64 = size_of::<SlotEntry>() as u64;

/// Bytes of the scales of `slots` slots; a buffer of one where there are none.
pub(crate) fn scale_bytes(slots: u64, scales_per_slot: u64) -> u64 {
    4 * (slots * scales_per_slot).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostExecutor;
    use crate::weights::slot_layout;
    use porism_loader::Options;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    const LAYERS: u32 = 4;
    const EXPERTS: u32 = 32;
    const PICKS: usize = 4;

    /// Picks of so many steps, all layers: expert e is as likely as 1 / (1 + e), turned differently in each layer.
    fn trace(steps: usize, seed: u64) -> Vec<Vec<Vec<u32>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sum: f64 = (0..EXPERTS).map(|e| 1.0 / f64::from(1 + e)).sum();
        let mut draw = |layer: u32| {
            let mut at = rng.random::<f64>() * sum;
            let rank = (0..EXPERTS).find(|e| {
                at -= 1.0 / f64::from(1 + e);
                at < 0.0
            });
            (rank.unwrap_or(EXPERTS - 1) + 11 * layer) % EXPERTS
        };
        (0..steps)
            .map(|_| {
                (0..LAYERS)
                    .map(|layer| {
                        let mut picked = Vec::new();
                        while picked.len() < PICKS {
                            let expert = draw(layer);
                            if !picked.contains(&expert) {
                                picked.push(expert);
                            }
                        }
                        picked.sort_unstable();
                        picked
                    })
                    .collect()
            })
            .collect()
    }

    /// Hits of a residency on a trace.
    fn hits(policy: Policy, slots: usize, settled: &[Key], trace: &[Vec<Vec<u32>>]) -> usize {
        let mut residency = Residency::new(policy, slots);
        for key in settled {
            residency.settle(*key);
        }
        let mut hits = 0;
        for step in trace {
            residency.next_step();
            for (layer, picked) in (0u32..).zip(step) {
                let rounds = residency.rounds(layer, picked);
                hits += picked.len() - rounds.iter().map(|round| round.loads.len()).sum::<usize>();
            }
        }
        hits
    }

    /// The same by the definition of the policy: all uses are remembered, and whoever leaves is found anew each time.
    fn simulated(policy: Policy, slots: usize, settled: &[Key], trace: &[Vec<Vec<u32>>]) -> usize {
        let mut uses: HashMap<Key, Vec<(usize, usize)>> = HashMap::new();
        let mut inside: Vec<Key> = settled.to_vec();
        let (mut hits, mut time) = (0, 0);
        for (step, layers) in trace.iter().enumerate() {
            for (layer, picked) in (0u32..).zip(layers) {
                let (there, absent): (Vec<Key>, Vec<Key>) =
                    picked.iter().map(|expert| (layer, *expert)).partition(|key| inside.contains(key));
                hits += there.len();
                for key in there.iter().chain(&absent) {
                    time += 1;
                    if !inside.contains(key) {
                        if inside.len() == slots {
                            let heat = |key: &Key| -> f64 {
                                let all = uses.get(key).map_or(&[][..], Vec::as_slice);
                                all.iter().map(|(at, _)| (-((step - at) as f64) / HALF_LIFE).exp2()).sum()
                            };
                            let last = |key: &Key| uses.get(key).map_or(0, |uses| uses[uses.len() - 1].1);
                            let pinned = |key: &Key| policy == Policy::Pinned && settled.contains(key);
                            let may_leave =
                                |key: &&Key| !(there.contains(key) || absent.contains(key) || pinned(key));
                            let leaves = *inside
                                .iter()
                                .filter(may_leave)
                                .min_by(|a, b| match policy {
                                    Policy::Lfru => heat(a).total_cmp(&heat(b)).then(last(a).cmp(&last(b))),
                                    _ => last(a).cmp(&last(b)),
                                })
                                .expect("somebody may leave");
                            inside.retain(|key| *key != leaves);
                        }
                        inside.push(*key);
                    }
                    uses.entry(*key).or_default().push((step, time));
                }
            }
        }
        hits
    }

    #[test]
    fn hits_are_those_of_the_policy() {
        let trace = trace(400, 7);
        let settled: Vec<Key> =
            (0..LAYERS).flat_map(|layer| (0..5).map(move |e| (layer, (e + 11 * layer) % EXPERTS))).collect();
        let all = 400 * LAYERS as usize * PICKS;
        for slots in [8, 24, 40, 80] {
            let settled = &settled[..settled.len().min(slots - PICKS)];
            for policy in [Policy::Pinned, Policy::Lru, Policy::Lfru] {
                let found = hits(policy, slots, settled, &trace);
                assert_eq!(found, simulated(policy, slots, settled, &trace), "{policy:?}, {slots} slots");
                assert!(found < all);
            }
        }
        // What a policy is for: the use of experts is skewed, and remembering it pays.
        let rate = |policy| hits(policy, 40, &settled, &trace) as f64 / all as f64;
        assert!(
            rate(Policy::Lfru) > rate(Policy::Lru) + 0.05,
            "{} {}",
            rate(Policy::Lfru),
            rate(Policy::Lru)
        );
    }

    /// The files of a small checkpoint with 16 experts in layers 1 to 3.
    fn files() -> Vec<(String, Vec<u8>)> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v32-tiny-fp8");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files
            .map(|path| {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
            })
            .collect()
    }

    fn pool<'c>(executor: &mut HostExecutor<'c>, checkpoint: &'c Checkpoint, slots: usize) -> Pool<'c> {
        let config = checkpoint.config();
        let experts =
            |layer| vec![true; if config.is_moe(layer) { config.n_routed_experts as usize } else { 0 }];
        let mine = (0..config.num_hidden_layers).map(experts).collect();
        let layout = |layer| slot_layout(checkpoint, layer);
        Pool::allocate(executor, checkpoint, Policy::Lru, slots, mine, layout).unwrap()
    }

    /// Brings experts of layer 1.
    fn bring<'c>(
        pool: &mut Pool<'c>,
        executor: &mut HostExecutor<'c>,
        picked: &[u32],
    ) -> Result<PoolFacts, Error> {
        pool.next_step();
        let rounds = pool.rounds(1, picked);
        let before = pool.facts();
        for round in &rounds {
            if let Err(error) = pool.load(executor, 1, round) {
                pool.forget(1, &rounds);
                return Err(error);
            }
        }
        Ok(before)
    }

    #[test]
    fn an_expert_is_looked_through_once_however_often_it_is_brought() {
        let checkpoint = Checkpoint::from_memory(files(), Options::default()).unwrap();
        let mut executor = HostExecutor::new();
        let mut pool = pool(&mut executor, &checkpoint, 4);
        for (turn, picked) in [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [2, 3, 8, 9]].iter().enumerate() {
            bring(&mut pool, &mut executor, picked).unwrap();
            let facts = pool.facts();
            assert_eq!(facts.misses, [4, 8, 12, 14][turn]);
            assert_eq!(facts.looked_through, [4, 8, 8, 10][turn]);
        }
    }

    #[test]
    fn a_code_that_is_no_number_is_found_each_time_its_expert_is_wanted() {
        let mut files = files();
        let intact = Checkpoint::from_memory(files.clone(), Options::default()).unwrap();
        let place = intact.location(expert_roles(1, 5)[2]).unwrap();
        let shard = intact.shards()[place.shard()].path().to_owned();
        let (_, bytes) = files.iter_mut().find(|(name, _)| shard.ends_with(name)).unwrap();
        bytes[place.range().start as usize + 77] = 0x7f;
        let checkpoint = Checkpoint::from_memory(files, Options::default()).unwrap();
        let mut executor = HostExecutor::new();
        let mut pool = pool(&mut executor, &checkpoint, 4);
        for _ in 0..2 {
            let error = bring(&mut pool, &mut executor, &[4, 5]).unwrap_err().to_string();
            assert!(error.contains("layers.1.mlp.experts.5.down_proj") && error.contains("0x7f"), "{error}");
        }
        bring(&mut pool, &mut executor, &[4, 6]).unwrap();
    }

    #[test]
    fn all_experts_of_a_turn_are_asked_for_before_the_first_is_brought() {
        let checkpoint = Checkpoint::from_memory(files(), Options::default()).unwrap();
        let mut executor = HostExecutor::new();
        let mut pool = pool(&mut executor, &checkpoint, 6);
        let before = bring(&mut pool, &mut executor, &[0, 1, 2, 3, 4, 5]).unwrap();
        assert_eq!((before.asked_ahead, before.bytes_moved), (6, 0));
        // Two are there; the others need more than one turn.
        let moved = pool.facts().bytes_moved;
        let before = bring(&mut pool, &mut executor, &[4, 5, 6, 7, 8, 9, 10, 11]).unwrap();
        assert_eq!((before.asked_ahead, before.bytes_moved), (12, moved));
        assert!(pool.facts().bytes_moved > moved);
        let before = bring(&mut pool, &mut executor, &[10, 11]).unwrap();
        assert_eq!(before.asked_ahead, 12);
    }

    proptest! {
        #[test]
        fn every_picked_expert_has_one_turn_in_a_slot_of_its_own(
            slots in 1usize..20, pinned in 0usize..18, policy in 0usize..3, seed in any::<u64>()
        ) {
            let policy = [Policy::Pinned, Policy::Lru, Policy::Lfru][policy];
            let mut residency = Residency::new(policy, slots);
            let settled: Vec<Key> = (0..pinned.min(slots - 1) as u32).map(|expert| (1, expert)).collect();
            for key in &settled {
                residency.settle(*key);
            }
            for step in trace(6, seed) {
                residency.next_step();
                for (layer, picked) in (0u32..).zip(&step) {
                    let rounds = residency.rounds(layer, picked);
                    let mut done: Vec<u32> = Vec::new();
                    for round in &rounds {
                        let mut places: Vec<usize> = round.experts.iter().map(|(_, slot)| *slot).collect();
                        places.sort_unstable();
                        places.dedup();
                        prop_assert_eq!(places.len(), round.experts.len());
                        prop_assert!(places.iter().all(|slot| *slot < slots));
                        prop_assert!(round.loads.iter().all(|load| round.experts.contains(load)));
                        done.extend(round.experts.iter().map(|(expert, _)| *expert));
                    }
                    done.sort_unstable();
                    prop_assert_eq!(&done, picked);
                    if policy == Policy::Pinned {
                        prop_assert!(settled.iter().all(|key| residency.place(*key).is_some()));
                    }
                }
            }
        }
    }
}
