//! Several devices as one: each with its part of the model, a recording in progress and, where experts come and go, slots.
//!
//! One thread drives them all. [`Executor::submit`] does not wait, so adapters work side by side, and beside the host, whose
//! part is run last; drivers have threads of their own. Whatever is summed over devices is summed in their order, so that
//! the same plan gives the same bits.

mod experts;
mod node;
pub mod step;

use porism_loader::{Checkpoint, ModelConfig};

use crate::device::Executor;
use crate::error::Error;
use crate::model::Model;
use crate::model::buffers::Step;
use crate::model::ops::Ops;
use crate::options::Heat;
use crate::plan::Place;
use crate::recording::View;
use crate::weights::{Arrivals, PoolFacts};
pub use node::Node;

/// So many steps may be under way on a device: what is uploaded for them takes memory of the driver.
const MOST_UNFINISHED: u32 = 4;

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
        // Zeros may have been read where a shard is gone.
        self.checkpoint.check_read()?;
        Ok(std::mem::take(&mut self.kept))
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
            if let Some(heat) = &mut self.heat {
                heat.count(layer, &bytemuck::pod_collect_to_vec(&own));
            }
            own = after;
        }
        node.clear();
        Ok(own)
    }
}
