//! A step's way through the layers: each is recorded on its home, h is carried from one home to the next, and the host looks
//! at who was picked where experts are elsewhere, have to be brought, or are on disk.

use super::Rig;
use super::experts::Picks;
use crate::error::Error;
use crate::model::buffers::Step;
use crate::model::moe;
use crate::model::ops::Ops;

/// Checkpoints beyond so many bytes may not be in memory: what is picked of them is asked for before it is used.
const READ_AHEAD_FROM: u64 = 1 << 30;

/// Takes the step's tokens through all layers, to the device that has the head. `after` is called with what has been
/// recorded so far: before the first layer, and after each. Nothing runs before it must: with one device that holds all,
/// this only records.
///
/// # Errors
/// A device that fails.
pub fn layers(
    rig: &mut Rig<'_>,
    tokens: u32,
    after: &mut dyn FnMut(&mut Ops<'_>, &Step, Option<u32>),
) -> Result<(), Error> {
    let mut home = rig.embedding_home();
    let (mut ops, model, step) = rig.recorder(home, tokens, None);
    model.embed(&mut ops, step);
    after(&mut ops, step, None);
    for layer in 0..rig.num_layers() {
        // h follows the layers.
        rig.carry(home, rig.home(layer), layer, tokens)?;
        home = rig.home(layer);
        let reads_ahead = rig.reads_ahead(home);
        let (mut ops, model, step) = rig.recorder(home, tokens, Some(layer));
        let block = model.layer(layer);
        block.record(&mut ops, &model.config, step, (layer - model.range.start) as usize);
        match block.experts().map(|experts| experts.all && !reads_ahead) {
            None => {}
            Some(true) => {
                let arriving = rig.is_arriving(home, layer);
                if arriving {
                    rig.wait_for_picks(home, layer, tokens)?;
                }
                let (mut ops, model, step) = rig.recorder(home, tokens, Some(layer));
                if let Some(experts) = model.layer(layer).experts() {
                    moe::all_experts(&mut ops, &model.config, experts, step);
                }
                if !arriving {
                    rig.count_picks(home, layer, tokens);
                }
            }
            Some(false) => {
                // The host has to see who was picked: some are elsewhere, have to be brought, or are on disk.
                let picks = rig.read_picks(home, layer, tokens)?;
                rig.scattered_experts(home, layer, &picks)?;
            }
        }
        let (mut ops, _, step) = rig.recorder(home, tokens, Some(layer));
        after(&mut ops, step, Some(layer));
    }
    rig.carry(home, rig.head_home(), rig.num_layers(), tokens)
}

impl Rig<'_> {
    /// Runs what is recorded on a layer's home, where all its experts will be, and waits for those that were picked.
    ///
    /// # Errors
    /// A shard that cannot be read or was changed, or a device that fails.
    pub fn wait_for_picks(&mut self, home: usize, layer: u32, tokens: u32) -> Result<(), Error> {
        let picks = self.read_picks(home, layer, tokens)?;
        self.wait_for(home, layer, &picks.experts)
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
        let activations = self.nodes[to].step.activations;
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
        let a = node.step.activations;
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
        if let Some(heat) = &mut self.heat {
            heat.count(layer, &picks.experts);
        }
        Ok(picks)
    }
}
