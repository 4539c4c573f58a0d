//! Several devices as one: each with its part of the model, a recording in progress and, where experts come and go, slots.
//!
//! One thread drives them all. [`Executor::submit`] does not wait, so adapters work side by side, and beside the host, whose
//! part is run last; drivers have threads of their own. Whatever is summed over devices is summed in their order, so that
//! the same plan gives the same bits.

use porism_loader::{Checkpoint, ModelConfig};

use crate::arrivals::Arrivals;
use crate::error::Error;
use crate::executor::Executor;
use crate::experts::{Pool, PoolFacts};
use crate::gpu::DeviceIndex;
use crate::model::forward::Model;
use crate::model::moe;
use crate::model::step::Step;
use crate::ops::Ops;
use crate::plan::{Heat, Place};
use crate::recording::{Recording, View};
use crate::weights::expert_roles;

/// Checkpoints beyond so many bytes may not be in memory: what is picked of them is asked for before it is used.
const READ_AHEAD_FROM: u64 = 1 << 30;

/// So many steps may be under way on a device: what is uploaded for them takes memory of the driver.
const MOST_UNFINISHED: u32 = 4;

/// A device with its part of the model.
pub struct Node<'c> {
    /// What runs its recordings.
    pub executor: Box<dyn Executor<'c> + 'c>,
    /// For people.
    pub name: String,
    /// Its number.
    pub index: DeviceIndex,
    /// What it holds.
    pub model: Model,
    /// Its buffers.
    pub step: Step,
    /// Slots, where its experts come and go.
    pub pool: Option<Pool<'c>>,
    /// What was recorded and has not been submitted.
    pub recording: Recording,
    /// Which reads of the recording, by number, are the rig's own.
    own_reads: Vec<usize>,
    /// Layers whose picks are among those reads, only to be counted.
    counted: Vec<(u32, u32)>,
    /// Slots whose experts may be at work.
    busy: Vec<usize>,
    /// Steps that were submitted and not waited for.
    unfinished: u32,
}

/// What the last step asked of the devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct RigFacts {
    /// Dispatches.
    pub dispatches: usize,
    /// Of them those of the last layer.
    pub last_layer_dispatches: usize,
    /// Submits.
    pub submits: u64,
    /// Bytes read back.
    pub readback_bytes: u64,
    /// Seconds of the passes by the devices' own clocks, if all have one.
    pub pass_seconds: Option<f64>,
    /// Seconds of the CPU for turning recordings into commands.
    pub encode_seconds: f64,
}

/// Who was picked in a layer, as the host sees it.
pub struct Picks {
    tokens: u32,
    /// u32 (tokens, num_experts_per_tok)
    experts: Vec<u32>,
    /// f32 (tokens, num_experts_per_tok)
    weights: Vec<f32>,
    /// f32 (tokens, hidden_size): the normalised x, where another device may need it.
    x: Vec<f32>,
}

/// All devices and what lies where.
pub struct Rig<'c> {
    nodes: Vec<Node<'c>>,
    checkpoint: &'c Checkpoint,
    config: ModelConfig,
    /// The home of each layer.
    homes: Vec<usize>,
    embedding: usize,
    head: usize,
    placement: Vec<Vec<Place>>,
    /// Bytes of reads that are the caller's, in the order in which they were recorded.
    kept: Vec<u8>,
    /// Uses of experts, if they are counted.
    heat: Option<Heat>,
    /// Experts that are not there yet.
    arrivals: Option<Arrivals<'c>>,
    facts: RigFacts,
}

impl<'c> Node<'c> {
    /// A device whose weights and buffers are there.
    pub fn new(
        executor: Box<dyn Executor<'c> + 'c>,
        name: String,
        index: DeviceIndex,
        model: Model,
        step: Step,
        pool: Option<Pool<'c>>,
    ) -> Self {
        Node {
            executor,
            name,
            index,
            model,
            step,
            pool,
            recording: Recording::default(),
            own_reads: vec![],
            counted: vec![],
            busy: vec![],
            unfinished: 0,
        }
    }

    fn clear(&mut self) {
        self.recording.clear();
        self.own_reads.clear();
        self.counted.clear();
    }

    /// The vocabulary for the recording, what the device holds, and its buffers.
    pub fn recorder(&mut self, tokens: u32, layer: Option<u32>) -> (Ops<'_>, &Model, &Step) {
        let (recording, step) = (&mut self.recording, &self.step);
        let unused = step.activations.unused;
        let ops = Ops { recording, tuning: self.executor.tuning(), tokens, layer, unused };
        (ops, &self.model, step)
    }

    /// Records a read whose bytes go to the rig, not to the caller.
    fn read(&mut self, view: View) {
        self.own_reads.push(self.recording.read_views().count());
        self.recording.read(view);
    }

    /// The host waits while it computes: it gets its work after the adapters have theirs.
    fn waits(&self) -> bool {
        self.index == DeviceIndex::Host
    }
}

impl<'c> Rig<'c> {
    /// Devices among which a model was divided, in the order of the plan. With `count` the uses of experts are counted.
    pub fn new(
        checkpoint: &'c Checkpoint,
        nodes: Vec<Node<'c>>,
        placement: Vec<Vec<Place>>,
        count: bool,
    ) -> Self {
        let config = checkpoint.config().clone();
        let find = |what: &dyn Fn(&Model) -> bool| {
            nodes.iter().position(|node| what(&node.model)).expect("every part of a model has a home")
        };
        let homes =
            (0..config.num_hidden_layers).map(|layer| find(&|model| model.range.contains(&layer))).collect();
        let (embedding, head) =
            (find(&|model| !model.embedding.is_empty()), find(&|model| model.head.is_some()));
        let uses = placement.iter().map(|layer| vec![0; layer.len()]).collect();
        let heat = count.then_some(Heat { uses });
        Rig {
            nodes,
            checkpoint,
            config,
            homes,
            embedding,
            head,
            placement,
            kept: vec![],
            heat,
            arrivals: None,
            facts: RigFacts::default(),
        }
    }

    /// Experts that will come while tokens are computed.
    pub fn expect(&mut self, arrivals: Arrivals<'c>) {
        self.arrivals = Some(arrivals).filter(|arrivals| !arrivals.is_done());
    }

    /// Bytes of experts that are not there yet.
    pub fn bytes_to_come(&self) -> u64 {
        self.arrivals.as_ref().map_or(0, Arrivals::bytes)
    }

    /// Waits for the next buffer for each device that lacks experts, and writes it.
    ///
    /// # Errors
    /// A shard that cannot be read or was changed, or a device that fails.
    pub fn receive(&mut self) -> Result<(), Error> {
        self.check_shards()?;
        self.with_arrivals(|arrivals, device, node| arrivals.write_next(device, &mut *node.executor))
    }

    fn check_shards(&mut self) -> Result<(), Error> {
        let checked = self.checkpoint.check_shards();
        if let (Err(_), Some(arrivals)) = (&checked, &mut self.arrivals) {
            // What was read of another file is of no use.
            arrivals.stop();
        }
        Ok(checked?)
    }

    fn with_arrivals(
        &mut self,
        mut each: impl FnMut(&mut Arrivals<'c>, usize, &mut Node<'c>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(arrivals) = &mut self.arrivals else { return Ok(()) };
        for (device, node) in self.nodes.iter_mut().enumerate() {
            each(arrivals, device, node)?;
        }
        self.arrivals.take_if(|arrivals| arrivals.is_done());
        Ok(())
    }

    /// Whether experts of a layer that stay on a device are not there yet.
    pub fn is_arriving(&self, device: usize, layer: u32) -> bool {
        self.arrivals.as_ref().is_some_and(|arrivals| arrivals.has(device, layer))
    }

    /// Runs what is recorded on a layer's home, where all its experts will be, and waits for those that were picked.
    ///
    /// # Errors
    /// A shard that cannot be read or was changed, or a device that fails.
    pub fn wait_for_picks(&mut self, home: usize, layer: u32, tokens: u32) -> Result<(), Error> {
        let picks = self.read_picks(home, layer, tokens)?;
        self.wait_for(home, layer, &picks.experts)
    }

    fn wait_for(&mut self, device: usize, layer: u32, experts: &[u32]) -> Result<(), Error> {
        match &mut self.arrivals {
            None => Ok(()),
            Some(arrivals) => arrivals.wait_for(device, &mut *self.nodes[device].executor, layer, experts),
        }
    }

    /// The devices, in the order of the plan.
    pub fn nodes(&self) -> &[Node<'c>] {
        &self.nodes
    }

    /// The device that looks tokens up.
    pub fn embedding_home(&self) -> usize {
        self.embedding
    }

    /// The device that computes the logits.
    pub fn head_home(&self) -> usize {
        self.head
    }

    /// The device that has a layer's attention and caches.
    pub fn home(&self, layer: u32) -> usize {
        self.homes[layer as usize]
    }

    /// Layers of the model.
    pub fn num_layers(&self) -> u32 {
        self.config.num_hidden_layers
    }

    /// How often each expert was picked so far, if that is counted.
    pub fn heat(&self) -> Option<&Heat> {
        self.heat.as_ref()
    }

    /// What happened to the slots of each device that has any.
    pub fn pools(&self) -> impl Iterator<Item = (&str, PoolFacts)> {
        self.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.pool.as_ref()?.facts())))
    }

    /// What the step asked of the devices so far.
    pub fn facts(&self) -> RigFacts {
        self.facts
    }

    /// Begins a step: all recordings are empty.
    ///
    /// # Errors
    /// A shard whose file was changed since it was opened, where the step may need it, or what goes wrong with experts that
    /// arrive.
    pub fn begin(&mut self) -> Result<(), Error> {
        let uses_shards =
            |node: &Node<'_>| (node.executor.maps_weights() && node.model.bytes > 0) || node.pool.is_some();
        if self.arrivals.is_some() || self.nodes.iter().any(uses_shards) {
            self.check_shards()?;
        }
        self.facts = RigFacts { pass_seconds: Some(0.0), ..RigFacts::default() };
        self.kept.clear();
        for node in &mut self.nodes {
            node.clear();
            node.busy.clear();
            if let Some(pool) = &mut node.pool {
                pool.next_step();
            }
        }
        self.with_arrivals(|arrivals, device, node| arrivals.write_some(device, &mut *node.executor))
    }

    /// The devices with a part in the forward pass beyond computing experts.
    pub fn homes_mut(&mut self) -> impl Iterator<Item = (usize, &mut Node<'c>)> {
        let (embedding, head) = (self.embedding, self.head);
        let mut nodes = self.nodes.iter_mut().enumerate();
        std::iter::from_fn(move || {
            nodes.find(|(index, node)| *index == embedding || *index == head || !node.model.range.is_empty())
        })
    }

    /// The vocabulary for a device's recording, what it holds, and its buffers.
    pub fn recorder(&mut self, device: usize, tokens: u32, layer: Option<u32>) -> (Ops<'_>, &Model, &Step) {
        self.nodes[device].recorder(tokens, layer)
    }

    /// The executor of the device with the head.
    pub fn head_executor(&mut self) -> &mut (dyn Executor<'c> + 'c) {
        &mut *self.nodes[self.head].executor
    }

    /// Runs what is recorded on the device with the head, and returns the bytes of all reads that were recorded since
    /// the step began. Where nothing is to be read it is not waited for: of a long prompt the homes of the first layers
    /// go on with the next tokens while the later ones are at these. What goes wrong then is told by the next step.
    pub fn finish(&mut self) -> Result<Vec<u8>, Error> {
        let head = self.head;
        let node = &mut self.nodes[head];
        node.unfinished += 1;
        if node.recording.read_bytes() > 0 || node.unfinished > MOST_UNFINISHED {
            node.unfinished = 0;
            self.run(head)?;
        } else {
            self.submit(head)?;
            self.facts.pass_seconds = None;
        }
        Ok(std::mem::take(&mut self.kept))
    }

    /// Whether the host has to see who was picked even where all experts of a layer are at home: so that their bytes are
    /// read from disk while others are computed.
    pub fn reads_ahead(&self, home: usize) -> bool {
        self.nodes[home].executor.maps_weights() && self.checkpoint.weight_bytes() > READ_AHEAD_FROM
    }

    /// Takes h from one device to another, before layer `layer`.
    pub fn carry(&mut self, from: usize, to: usize, layer: u32, tokens: u32) -> Result<(), Error> {
        if from == to {
            return Ok(());
        }
        let values = u64::from(tokens) * u64::from(self.config.hidden_size);
        let h = self.nodes[from].step.activations.h;
        self.nodes[from].read(h.slice(0, values * 4));
        // A layer without an indexer attends to what the layer before selected.
        let indexer = self.config.indexer.as_ref().map(|indexer| indexer.index_topk);
        let without = layer < self.num_layers() && !self.config.has_indexer(layer);
        let selected = indexer.filter(|topk| without && self.nodes[from].step.longest > *topk);
        let selected = selected.map_or(0, |topk| u64::from(tokens) * u64::from(topk));
        if selected > 0 {
            let view = self.nodes[from].step.activations.selected;
            self.nodes[from].read(view.slice(0, selected * 4));
        }
        let bytes = self.run(from)?;
        let (h, selection) = bytes.split_at((values * 4) as usize);
        let activations = self.nodes[to].step.activations.clone();
        self.upload(to, activations.h, h)?;
        if selected > 0 {
            self.upload(to, activations.selected, selection)?;
        }
        Ok(())
    }

    /// Adds the picks of a layer whose experts are all at home to the statistics, when the recording has run.
    pub fn count_picks(&mut self, home: usize, layer: u32, tokens: u32) {
        if self.heat.is_none() {
            return;
        }
        let bytes = self.pick_bytes(tokens);
        let node = &mut self.nodes[home];
        let ids = node.step.activations.expert_ids.slice(0, bytes);
        node.read(ids);
        node.counted.push((layer, tokens));
    }

    /// Runs what is recorded on a layer's home and brings back whom each token picked.
    pub fn read_picks(&mut self, home: usize, layer: u32, tokens: u32) -> Result<Picks, Error> {
        let bytes = self.pick_bytes(tokens);
        let elsewhere = self.placement[layer as usize].iter().any(|place| place.device != home);
        let node = &mut self.nodes[home];
        let a = node.step.activations.clone();
        node.read(a.expert_ids.slice(0, bytes));
        node.read(a.expert_weights.slice(0, bytes));
        if elsewhere {
            node.read(a.x.slice(0, u64::from(tokens) * u64::from(self.config.hidden_size) * 4));
        }
        let read = self.run(home)?;
        let (experts, rest) = read.split_at(bytes as usize);
        let (weights, x) = rest.split_at(bytes as usize);
        let picks = Picks {
            tokens,
            experts: bytemuck::pod_collect_to_vec(experts),
            weights: bytemuck::pod_collect_to_vec(weights),
            x: bytemuck::pod_collect_to_vec(x),
        };
        count(&mut self.heat, layer, &picks.experts);
        Ok(picks)
    }

    /// h += moe(x), each picked expert computed where the plan has it: on other devices first, so that they work while the
    /// home computes its own and the shared one.
    pub fn scattered_experts(&mut self, home: usize, layer: u32, picks: &Picks) -> Result<(), Error> {
        let places = &self.placement[layer as usize];
        // What each device gets: the weights of its pairs, 0 for all others.
        let mut shares: Vec<Option<Vec<f32>>> = vec![None; self.nodes.len()];
        shares[home] = Some(vec![0.0; picks.weights.len()]);
        for (pair, (expert, weight)) in picks.experts.iter().zip(&picks.weights).enumerate() {
            let share =
                shares[places[*expert as usize].device].get_or_insert_with(|| vec![0.0; picks.weights.len()]);
            share[pair] = *weight;
        }
        let elsewhere = shares.iter().enumerate().any(|(device, share)| device != home && share.is_some());
        let mut order: Vec<usize> =
            (0..self.nodes.len()).filter(|device| shares[*device].is_some()).collect();
        order.sort_by_key(|device| (self.nodes[*device].waits(), *device == home, *device));
        for device in &order {
            let share = shares[*device].take().expect("filtered");
            self.start_experts(*device, *device == home, layer, picks, &share, elsewhere)?;
        }
        self.prefetch(layer)?;
        if !elsewhere {
            return Ok(());
        }
        // In the order of the devices, whichever was done first.
        let mut sum = vec![0.0f32; picks.tokens as usize * self.config.hidden_size as usize];
        order.sort_unstable();
        for device in order.into_iter().filter(|device| *device != home) {
            let bytes = self.complete(device)?;
            for (sum, value) in sum.iter_mut().zip(bytes.chunks_exact(4)) {
                *sum += f32::from_le_bytes(value.try_into().expect("4 bytes"));
            }
        }
        let a = self.nodes[home].step.activations.clone();
        self.upload(home, a.part, bytemuck::cast_slice(&sum))?;
        self.upload(home, a.expert_weights, bytemuck::cast_slice(&vec![1.0f32; picks.tokens as usize]))?;
        let (mut ops, model, step) = self.recorder(home, picks.tokens, Some(layer));
        moe::add_remote(&mut ops, &model.config, step);
        Ok(())
    }

    /// Gives a device its pairs of a layer. The home's part ends in h, another device's in a read that is not waited for.
    fn start_experts(
        &mut self,
        device: usize,
        home: bool,
        layer: u32,
        picks: &Picks,
        share: &[f32],
        elsewhere: bool,
    ) -> Result<(), Error> {
        let a = self.nodes[device].step.activations.clone();
        if !home {
            self.upload(device, a.x, bytemuck::cast_slice(&picks.x))?;
            self.upload(device, a.expert_ids, bytemuck::cast_slice(&picks.experts))?;
        }
        if !home || elsewhere {
            self.upload(device, a.expert_weights, bytemuck::cast_slice(share))?;
        }
        let node = &mut self.nodes[device];
        let tokens = picks.tokens;
        if let Some(mut pool) = node.pool.take() {
            let mut picked: Vec<u32> = picks
                .experts
                .iter()
                .zip(share)
                .filter(|(_, weight)| **weight != 0.0)
                .map(|(e, _)| *e)
                .collect();
            picked.sort_unstable();
            picked.dedup();
            let rounds = pool.rounds(layer, &picked);
            node.busy.clear();
            // Of those that have a place, which are computed first, some may not be there yet.
            let mut result = self.wait_for(device, layer, &picked);
            keep_guests(self.arrivals.as_mut(), device, &mut pool);
            for (number, round) in rounds.iter().enumerate() {
                if number > 0 && result.is_ok() {
                    // The device has the turn before; what comes next is brought while it works.
                    result = self.submit(device);
                }
                let node = &mut self.nodes[device];
                result = result.and_then(|()| pool.load(&mut *node.executor, layer, round));
                if result.is_err() {
                    break;
                }
                node.busy.extend(round.experts.iter().map(|(_, slot)| *slot));
                let recording = &mut node.recording;
                let slabs = pool.tables(round, |view, table| recording.upload(view, table));
                let (mut ops, model, step) = node.recorder(tokens, Some(layer));
                moe::some_experts(&mut ops, &model.config, &pool.layout(layer), &slabs, step);
            }
            if result.is_err() {
                pool.forget(layer, &rounds);
            }
            self.nodes[device].pool = Some(pool);
            result?;
        } else {
            if self.reads_ahead(device) {
                read_ahead(self.checkpoint, layer, picks.experts.iter().zip(share));
            }
            if self.is_arriving(device, layer) {
                let places = &self.placement[layer as usize];
                let here = |expert: &u32| places[*expert as usize].device == device;
                let picked: Vec<u32> = picks.experts.iter().copied().filter(here).collect();
                self.wait_for(device, layer, &picked)?;
            }
            let node = &mut self.nodes[device];
            let (mut ops, model, step) = node.recorder(tokens, Some(layer));
            let experts = match home {
                true => model.layer(layer).experts(),
                false => model.guests[layer as usize].as_ref(),
            };
            if let Some(experts) = experts {
                moe::some_experts(&mut ops, &model.config, &experts.slot, &experts.slabs, step);
            }
        }
        let node = &mut self.nodes[device];
        let (mut ops, model, step) = node.recorder(tokens, Some(layer));
        moe::combine(&mut ops, &model.config, if home { model.layer(layer).experts() } else { None }, step);
        if home {
            // Without help and without slots that may change, the home's recording simply goes on.
            return if elsewhere || self.nodes[device].pool.is_some() { self.submit(device) } else { Ok(()) };
        }
        let bytes = u64::from(tokens) * u64::from(self.config.hidden_size) * 4;
        node.read(a.shared_out.slice(0, bytes));
        self.hand_over(device)
    }

    /// While devices work on a layer, brings what the next one with experts will probably want.
    fn prefetch(&mut self, layer: u32) -> Result<(), Error> {
        let Some(next) = (layer + 1..self.num_layers()).find(|layer| self.config.is_moe(*layer)) else {
            return Ok(());
        };
        for (device, node) in self.nodes.iter_mut().enumerate() {
            if let Some(pool) = node.pool.as_mut().filter(|pool| pool.has_layer(next)) {
                let result = pool.prefetch(&mut *node.executor, next, &mut node.busy);
                keep_guests(self.arrivals.as_mut(), device, pool);
                result?;
            }
        }
        Ok(())
    }

    /// Bytes of the ids, or the weights, of a step's picks.
    fn pick_bytes(&self, tokens: u32) -> u64 {
        u64::from(tokens) * u64::from(self.config.num_experts_per_tok) * 4
    }

    /// Records an upload. Those come first in a recording, so one with dispatches is submitted before.
    fn upload(&mut self, device: usize, to: View, bytes: &[u8]) -> Result<(), Error> {
        if self.nodes[device].recording.dispatches().next().is_some() {
            self.submit(device)?;
        }
        self.nodes[device].recording.upload(to, bytes);
        Ok(())
    }

    /// Submits a recording without reads and begins the next.
    fn submit(&mut self, device: usize) -> Result<(), Error> {
        debug_assert_eq!(self.nodes[device].recording.read_bytes(), 0, "they would be lost");
        // The device's clock tells of the recording that is waited for only.
        self.facts.pass_seconds = None;
        self.hand_over(device)?;
        self.nodes[device].clear();
        Ok(())
    }

    fn hand_over(&mut self, device: usize) -> Result<(), Error> {
        let last = self.num_layers() - 1;
        let node = &mut self.nodes[device];
        let before = node.executor.submits();
        node.executor.submit(&node.recording)?;
        let facts = &mut self.facts;
        facts.submits += node.executor.submits() - before;
        facts.dispatches += node.recording.dispatches().count();
        let in_last = node.recording.dispatches().filter(|dispatch| dispatch.label.layer == Some(last));
        facts.last_layer_dispatches += in_last.count();
        facts.readback_bytes += node.recording.read_bytes();
        facts.encode_seconds += node.executor.last_encode_seconds();
        Ok(())
    }

    /// Runs what is recorded on a device and returns the bytes of the rig's own reads; the caller's are kept.
    fn run(&mut self, device: usize) -> Result<Vec<u8>, Error> {
        self.hand_over(device)?;
        self.complete(device)
    }

    fn complete(&mut self, device: usize) -> Result<Vec<u8>, Error> {
        let pick_bytes = self.config.num_experts_per_tok as usize * 4;
        let node = &mut self.nodes[device];
        let mut own = Vec::new();
        let mut rest = node.executor.complete(&node.recording)?;
        let mut own_reads = node.own_reads.iter().peekable();
        for (number, view) in node.recording.read_views().enumerate() {
            let (bytes, after) = rest.split_at(view.bytes as usize);
            rest = after;
            if own_reads.next_if_eq(&&number).is_some() { &mut own } else { &mut self.kept }
                .extend_from_slice(bytes);
        }
        self.facts.pass_seconds =
            self.facts.pass_seconds.zip(node.executor.last_pass_seconds()).map(|(sum, more)| sum + more);
        for (layer, tokens) in std::mem::take(&mut node.counted) {
            let after = own.split_off(tokens as usize * pick_bytes);
            count(&mut self.heat, layer, &bytemuck::pod_collect_to_vec(&own));
            own = after;
        }
        node.clear();
        Ok(own)
    }
}

/// Experts that had to leave before they were there do not come any more: their slots are others'.
fn keep_guests(arrivals: Option<&mut Arrivals<'_>>, device: usize, pool: &mut Pool<'_>) {
    if let Some(arrivals) = arrivals {
        let gone = arrivals.keep(device, |key| pool.holds(key));
        pool.did_not_come(&gone);
    }
}

/// Asks for the bytes of a device's picked experts, each once.
fn read_ahead<'p>(checkpoint: &Checkpoint, layer: u32, picked: impl Iterator<Item = (&'p u32, &'p f32)>) {
    let mut experts: Vec<u32> =
        picked.filter(|(_, weight)| **weight != 0.0).map(|(expert, _)| *expert).collect();
    experts.sort_unstable();
    experts.dedup();
    for expert in experts {
        for role in expert_roles(layer, expert) {
            checkpoint.read_ahead(role);
        }
    }
}

fn count(heat: &mut Option<Heat>, layer: u32, experts: &[u32]) {
    if let Some(heat) = heat {
        for expert in experts {
            heat.uses[layer as usize][*expert as usize] += 1;
        }
    }
}
