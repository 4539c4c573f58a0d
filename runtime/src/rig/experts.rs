//! A layer's experts on all devices that have some: each gets the pairs of its own, and what it computed is added up at home.

use porism_loader::Checkpoint;

use super::Rig;
use crate::error::Error;
use crate::model::moe;
use crate::weights::{Arrivals, Pool, expert_roles};

/// Who was picked in a layer, as the host sees it.
pub struct Picks {
    pub(super) tokens: u32,
    /// u32 (tokens, num_experts_per_tok)
    pub(super) experts: Vec<u32>,
    /// f32 (tokens, num_experts_per_tok)
    pub(super) weights: Vec<f32>,
    /// f32 (tokens, hidden_size): the normalised x, where another device may need it.
    pub(super) x: Vec<f32>,
}

impl Rig<'_> {
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
        let a = self.nodes[home].step.activations;
        self.upload(home, a.part, bytemuck::cast_slice(&sum))?;
        self.upload(home, a.expert_weights, bytemuck::cast_slice(&vec![1.0f32; picks.tokens as usize]))?;
        let (mut ops, model, step) = self.recorder(home, picks.tokens, Some(layer));
        moe::add(&mut ops, &model.config, step);
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
        let a = self.nodes[device].step.activations;
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
                false => model.lone_experts[layer as usize].as_ref(),
            };
            if let Some(experts) = experts {
                moe::some_experts(&mut ops, &model.config, &experts.slot, &experts.slabs, step);
            }
        }
        let node = &mut self.nodes[device];
        let (mut ops, model, step) = node.recorder(tokens, Some(layer));
        // A layer's own experts are known at home only.
        let experts = if home { model.layer(layer).experts() } else { None };
        match experts {
            Some(experts) => moe::combine(&mut ops, &model.config, experts, step),
            None => moe::sum(&mut ops, &model.config, step),
        }
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
