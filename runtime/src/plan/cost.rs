//! Rates from bandwidths: how long a step takes and what takes it.

use porism_loader::Kind;

use super::place::Problem;
use super::{Device, DevicePlan, Place, Predicted};
use crate::error::Error;

/// What a WebGPU dispatch costs on a real adapter, in seconds: between the 24 and 70 µs that drivers take.
const DISPATCH_SECONDS: f64 = 40e-6;
/// Dispatches of a layer with experts when all are resident.
const DISPATCHES_PER_LAYER: f64 = 14.0;
/// A vector's way to another device and back, beside its bytes: two submits and their waits.
const HOP_SECONDS: f64 = 150e-6;

impl Problem<'_> {
    /// Rates from bandwidths: each weight that a token uses is read once.
    pub(super) fn predict(
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
