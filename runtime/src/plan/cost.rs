//! How long a step takes, and what takes it.
//!
//! step = Σ layers (the home's part + the slowest device's experts) + logits + what is carried between homes
//! Kernels that read B bytes of W weights for n tokens take max(B / bandwidth, W · (1 / decode + 2n / compute)), and each
//! has to be started. All devices work on a layer's experts at the same time. A token picks its experts alone, so that the
//! slowest device has more than its share of them as a rule: for few picks on few devices that is computed exactly, else as
//! for normal distributions.

use porism_loader::Kind;
use porism_shaders::matmul;

use super::place::Problem;
use super::result::{DevicePlan, Place, Predicted};
use crate::device::{Device, Kernels};
use crate::error::Error;
use crate::model::buffers::input_width;
use crate::model::moe::GROUP_FROM;
use crate::model::ops::MATMUL_FROM;
use crate::options::EngineOptions;
use crate::weights::layout::{ByKind, Matrices};

/// Kernels of attention, from the norm to the output projection, where all positions are attended to.
const ATTENTION_KERNELS: f64 = 8.0;
/// Those that select positions.
const SELECTING_KERNELS: f64 = 2.0;
/// Norm, gate and up, down.
const DENSE_KERNELS: f64 = 3.0;
/// Router and choice.
const ROUTING_KERNELS: f64 = 2.0;
/// Two mat-muls of a shared expert that is computed by itself.
const SHARED_KERNELS: f64 = 2.0;
/// The embedding; norm and choice of the next token.
const OTHER_KERNELS: f64 = 3.0;
/// Up to so many picks the slowest device is looked for among all ways in which they may fall.
const FEW_PICKS: f64 = 16.0;
/// And among no more devices than these.
const FEW_DEVICES: usize = 16;

/// What a model is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Sequences that generate at once.
    pub sequences: usize,
    /// Tokens of each that are cached before.
    pub depth: usize,
    /// Tokens of its prompt after those.
    pub prompt: usize,
    /// Tokens that it generates then.
    pub decode: usize,
}

impl Load {
    /// A prompt that fills the context, and the last token.
    pub fn of(request: &EngineOptions) -> Self {
        Load { sequences: 1, depth: 0, prompt: request.context.saturating_sub(1).max(1), decode: 1 }
    }
}

/// Tokens that are computed together; their positions lie evenly between two.
struct Step {
    tokens: f64,
    /// Of how many of them the logits are wanted.
    rows: f64,
    first: f64,
    end: f64,
}

impl Step {
    fn new([tokens, rows]: [usize; 2], first: usize, count: usize) -> Self {
        let first = first as f64;
        Step { tokens: tokens as f64, rows: rows as f64, first, end: first + count.max(1) as f64 }
    }

    /// Share of the tokens that have more than `most` positions before them, and positions of those, summed over all
    /// tokens and divided by their number.
    fn beyond(&self, most: f64) -> [f64; 2] {
        let from = self.first.max(most).min(self.end);
        let share = (self.end - from) / (self.end - self.first);
        [share, share * (from + self.end) / 2.0]
    }

    /// Positions that a token attends to on average, if it attends to no more than `most`.
    fn attended(&self, most: f64) -> f64 {
        let [all, positions] = self.beyond(0.0);
        let [share, far] = self.beyond(most);
        debug_assert!((all - 1.0).abs() < 1e-9);
        positions - far + share * most
    }
}

/// What routed experts ask of a device, on average.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    bytes: f64,
    /// Weights to be turned into numbers.
    weights: f64,
    operations: f64,
}

impl Asked {
    /// The same for mat-muls that reach a share of what a large one does, in a step of so many tokens.
    fn slower(self, share: f64, kernels: &Kernels, tokens: f64) -> Self {
        let decoding = if tokens > 1.0 { kernels.several } else { kernels.one };
        Asked {
            bytes: self.bytes,
            weights: self.weights / (share * decoding),
            operations: self.operations / share,
        }
    }
}

/// The time of a layer's experts on a device: what has to be done in any case, and what the picks ask for.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Share of the picks.
    share: f64,
    /// Whatever was picked.
    always: Seconds,
    /// If anything was picked.
    once: Seconds,
    /// For all the picks that fall on it on average.
    picks: Seconds,
}

impl Part {
    /// Seconds if `count` of `picks` picks fall on it.
    fn total(&self, count: usize, picks: f64) -> f64 {
        let mut seconds = self.always.total();
        if count > 0 {
            seconds += self.once.total() + self.picks.total() * count as f64 / (picks * self.share).max(1e-9);
        }
        seconds
    }

    /// Seconds on average of `picks` picks.
    fn expected(&self, picks: f64) -> f64 {
        let any = 1.0 - (1.0 - self.share).max(0.0).powf(picks);
        self.always.total() + self.once.total() * any + self.picks.total()
    }

    fn all(self) -> Seconds {
        let mut all = self.always;
        if self.share > 0.0 {
            all.extend(self.once);
            all.extend(self.picks);
        }
        all
    }
}

impl DevicePlan {
    /// Share of the weights that every token needs which is read from disk.
    fn always_on_disk(&self) -> f64 {
        let always =
            |bytes: &ByKind| bytes.total() - bytes.of(Kind::Embedding) - bytes.of(Kind::RoutedExpert);
        share(always(&self.disk), always(&self.weights))
    }
}

/// What part of both the first is.
fn share(of: u64, rest: u64) -> f64 {
    of as f64 / (of + rest).max(1) as f64
}

impl Problem<'_> {
    /// What a plan promises for a load.
    pub(super) fn predict(
        &self,
        plans: &[DevicePlan],
        placement: &[Vec<Place>],
        chunk: usize,
        load: &Load,
    ) -> Result<Predicted, Error> {
        let shares = self.shares();
        let seconds = |step: &Step| self.step_seconds(plans, placement, &shares, step);
        let prompt = load.prompt.max(1);
        let cached = load.depth + prompt;
        let decode = seconds(&Step::new([load.sequences; 2], cached, load.decode))?;

        let mut prefill = Seconds::default();
        let [whole, rest] = [prompt / chunk, prompt % chunk];
        // Only of the last chunk the logits are wanted.
        let last = if rest > 0 { rest } else { chunk };
        let before = if rest > 0 { whole } else { whole - 1 };
        if before > 0 {
            let step = seconds(&Step::new([chunk, 0], load.depth, prompt))?;
            prefill.extend(step.times(before as f64));
        }
        prefill.extend(seconds(&Step::new([last, 1], load.depth, prompt))?);
        Ok(Predicted {
            decode_tokens_per_second: load.sequences as f64 / decode.total(),
            prefill_tokens_per_second: prompt as f64 / prefill.total(),
            limited_by: decode.largest(self.devices),
            prefill_limited_by: prefill.largest(self.devices),
        })
    }

    /// Where the time of a step goes.
    fn step_seconds(
        &self,
        plans: &[DevicePlan],
        placement: &[Vec<Place>],
        shares: &[Vec<f64>],
        step: &Step,
    ) -> Result<Seconds, Error> {
        let config = self.config();
        let hidden = f64::from(config.hidden_size) * 4.0 * step.tokens;
        let mut seconds = Seconds::default();
        let home_of = |what: &dyn Fn(&DevicePlan) -> bool| {
            plans.iter().position(what).expect("every part of a model has a home")
        };
        let mut at = home_of(&|plan| plan.embedding);
        let head = home_of(&|plan| plan.head);
        seconds.add(at, Limit::Dispatches, OTHER_KERNELS * self.devices[at].rates.dispatch);
        for layer in 0..config.num_hidden_layers {
            let home = home_of(&|plan| plan.layers.contains(&layer));
            self.carry(&mut seconds, at, home, hidden);
            at = home;
            self.attention(&mut seconds, (home, &plans[home]), layer, step)?;
            if config.is_moe(layer) {
                let (places, shares) = (&placement[layer as usize], &shares[layer as usize]);
                self.experts(&mut seconds, plans, (layer, home), places, shares, step)?;
            }
        }
        self.carry(&mut seconds, at, head, hidden);
        if step.rows == 0.0 {
            return Ok(seconds);
        }
        let matrix = self.costs[head].layout.logits()?;
        let pieces = matrix.bytes as f64 / self.devices[head].max_binding_bytes as f64;
        seconds.matrices(head, &self.devices[head], (matrix, plans[head].always_on_disk()), step.rows);
        seconds.add(head, Limit::Dispatches, pieces.ceil() * self.devices[head].rates.dispatch);
        let rates = &self.devices[head].rates;
        let logits = step.rows * f64::from(config.vocab_size);
        seconds.add(head, Limit::Compute, logits * rates.kernels.logit / rates.values);
        seconds.add(head, Limit::HandOver, rates.handover);
        Ok(seconds)
    }

    /// Takes h from one home to the next.
    fn carry(&self, seconds: &mut Seconds, from: usize, to: usize, bytes: f64) {
        if from != to {
            seconds.add(from, Limit::HandOver, self.devices[from].rates.handover);
            seconds.add(from, Limit::Link, bytes / self.devices[from].rates.link);
            seconds.add(to, Limit::Link, bytes / self.devices[to].rates.link);
        }
    }

    /// What a layer's home does in any case: attention, then a dense feed-forward or the choice of experts.
    fn attention(
        &self,
        seconds: &mut Seconds,
        (home, plan): (usize, &DevicePlan),
        layer: u32,
        step: &Step,
    ) -> Result<(), Error> {
        let (config, device) = (self.config(), &self.devices[home]);
        let layout = &self.costs[home].layout;
        let topk = f64::from(config.indexer.as_ref().map_or(u32::MAX, |i| i.index_topk));
        let [selecting, far] = step.beyond(topk);
        let has_indexer = config.has_indexer(layer);

        let (always, more) = (layout.always(layer)?, layout.selecting(layer)?);
        let unused = |of: u64| (of as f64 * (1.0 - selecting)) as u64;
        let read = Matrices {
            bytes: always.bytes - unused(more.bytes),
            weights: always.weights - unused(more.weights),
        };
        seconds.matrices(home, device, (read, plan.always_on_disk()), step.tokens);

        // Each token reads its latents for scores and sums, and the indexer every key.
        let attended = step.attended(topk);
        let (rank, rope) = (f64::from(config.kv_lora_rank), f64::from(config.qk_rope_head_dim));
        let (heads, rates) = (f64::from(config.num_attention_heads), &device.rates);
        let kernels = &rates.kernels;
        let reached = selecting * kernels.selected + (1.0 - selecting) * kernels.attention;
        let reached = reached * if step.tokens > step.rows { 1.0 } else { kernels.single };
        let mut asked = Asked {
            bytes: attended * (rank + rope) * 4.0,
            weights: 0.0,
            operations: attended * heads * 2.0 * (2.0 * rank + rope) / reached,
        };
        if let Some(indexer) = config.indexer.as_ref().filter(|_| has_indexer) {
            let dim = f64::from(indexer.index_head_dim);
            asked.bytes += far * dim * 4.0;
            asked.operations += far * f64::from(indexer.index_n_heads) * 2.0 * dim / kernels.index;
        }
        asked.bytes *= step.tokens;
        asked.operations *= step.tokens;
        seconds.work(home, device, asked);

        // Queries are carried into the latent space with part of a matrix that counts among the others, only slower.
        let absorbed = heads * f64::from(config.qk_nope_head_dim) * rank;
        let slower = |share: f64| 1.0 / share - 1.0;
        let decoded = absorbed / rates.decode * slower(kernels.absorb);
        let multiplied = 2.0 * absorbed * step.tokens / rates.compute * slower(kernels.attention);
        seconds.add(home, Limit::Compute, decoded + multiplied);

        // Norms and projections; then what the router and the sum over experts, or the activation, go through.
        let hidden = f64::from(config.hidden_size);
        let mut values = 2.0 * hidden + f64::from(input_width(config));
        values += if config.is_moe(layer) {
            let picks = f64::from(config.num_experts_per_tok);
            (picks + 2.0) * hidden
        } else {
            hidden + kernels.activation * f64::from(config.intermediate_size)
        };
        seconds.add(home, Limit::Compute, step.tokens * values / device.rates.values);

        let mut started = ATTENTION_KERNELS;
        started += if has_indexer { SELECTING_KERNELS * selecting } else { 0.0 };
        started += if config.is_moe(layer) { ROUTING_KERNELS } else { DENSE_KERNELS };
        seconds.add(home, Limit::Dispatches, started * rates.dispatch);
        Ok(())
    }

    /// A layer's experts, on all devices at once.
    fn experts(
        &self,
        seconds: &mut Seconds,
        plans: &[DevicePlan],
        (layer, home): (u32, usize),
        places: &[Place],
        shares: &[f64],
        step: &Step,
    ) -> Result<(), Error> {
        let config = self.config();
        let vectors = |step: &Step| f64::from(config.hidden_size) * 4.0 * step.tokens;
        let elsewhere = places.iter().any(|place| place.device != home);
        let seen = elsewhere || places.iter().any(|place| !place.resident);
        let mut own = vec![0.0; plans.len()];
        places.iter().zip(shares).for_each(|(place, of)| own[place.device] += of);
        let all: f64 = shares.iter().sum();
        own.iter_mut().for_each(|share| *share /= all);
        let per_token = f64::from(config.num_experts_per_tok);
        // `above`: how many standard deviations more picks than on average fall on each.
        let parts = |step: &Step, above: f64| -> Result<Vec<Part>, Error> {
            let mut parts = Vec::with_capacity(plans.len());
            for (index, (device, plan)) in self.devices.iter().zip(plans).enumerate() {
                let rates = &device.rates;
                let share = own[index];
                let picked = if share > 0.0 {
                    let deviation = ((1.0 - share).max(0.0) / (share * step.tokens * per_token)).sqrt();
                    let tokens = step.tokens * (1.0 + above * deviation);
                    self.picked(index, plan, layer, places, shares, (step, tokens))?
                } else {
                    Seconds::default()
                };
                let mut part = Part { share, picks: picked, ..Part::default() };
                let kernels = self.expert_kernels(index, plan, places, index == home && !seen, step);
                if index == home {
                    part.always.add(index, Limit::Dispatches, kernels * rates.dispatch);
                    let shared = self.costs[index].layout.shared(layer)?;
                    part.always.matrices(index, device, (shared, plan.always_on_disk()), step.tokens);
                } else {
                    part.once.add(index, Limit::Dispatches, kernels * rates.dispatch);
                    part.once.add(index, Limit::HandOver, rates.handover);
                    part.once.add(index, Limit::Link, 2.0 * vectors(step) / rates.link);
                }
                parts.push(part);
            }
            Ok(parts)
        };
        if seen {
            seconds.add(home, Limit::HandOver, self.devices[home].rates.handover);
        }
        if !elsewhere {
            seconds.extend(parts(step, 0.0)?.swap_remove(home).all());
            return Ok(());
        }
        // x goes to the host's memory and the sum of the others' parts comes back.
        let rates = &self.devices[home].rates;
        seconds.add(home, Limit::Link, 2.0 * vectors(step) / rates.link);
        seconds.add(home, Limit::Dispatches, rates.dispatch);
        let picks = step.tokens * per_token;
        let involved = own.iter().filter(|share| **share > 0.0).count();
        let (slowest, parts) = if picks <= FEW_PICKS && involved <= FEW_DEVICES {
            let parts = parts(step, 0.0)?;
            (slowest(&parts, picks), parts)
        } else {
            // No less than what is known exactly of fewer tokens.
            let few = Step { tokens: (FEW_PICKS / per_token).floor(), ..*step };
            let least = match involved <= FEW_DEVICES && few.tokens >= 1.0 {
                true => slowest(&parts(&few, 0.0)?, few.tokens * per_token),
                false => 0.0,
            };
            let parts = parts(step, above_average(involved))?;
            (parts.iter().map(|part| part.expected(picks)).fold(least, f64::max), parts)
        };
        let longest = parts.into_iter().map(Part::all).max_by(|a, b| a.total().total_cmp(&b.total()));
        if let Some(longest) = longest.filter(|longest| longest.total() > 0.0) {
            let total = longest.total();
            seconds.extend(longest.times(slowest / total));
        }
        Ok(())
    }

    /// What the picks of `tokens` tokens that fall on a device take; the step has more or fewer.
    fn picked(
        &self,
        index: usize,
        plan: &DevicePlan,
        layer: u32,
        places: &[Place],
        shares: &[f64],
        (step, tokens): (&Step, f64),
    ) -> Result<Seconds, Error> {
        let (device, costs) = (&self.devices[index], &self.costs[index]);
        let expert = costs.layout.expert(layer)?;
        let (bytes, weights) = (expert.bytes as f64, expert.weights as f64);
        // Those that are there, and those that have to be brought.
        let mut asked = [Asked::default(); 2];
        let mut pairs = 0.0;
        for (place, of) in places.iter().zip(shares).filter(|(place, _)| place.device == index) {
            let any = 1.0 - (1.0 - of).powf(tokens);
            let asked = &mut asked[usize::from(!place.resident)];
            asked.bytes += bytes * any;
            asked.weights += weights * any;
            asked.operations += 2.0 * weights * whole_tiles(device, of * tokens, any, step.tokens);
            pairs += of * tokens;
        }
        let kernels = &device.rates.kernels;
        let [mut there, brought] = asked.map(|asked| asked.slower(kernels.experts, kernels, step.tokens));
        let mut picks = Seconds::default();
        let rates = &device.rates;
        let activated = pairs * f64::from(self.config().moe_intermediate_size);
        picks.add(index, Limit::Compute, activated * rates.kernels.activation / rates.values);
        let of = |bytes: &ByKind| bytes.of(Kind::RoutedExpert);
        let on_disk = there.bytes * share(of(&plan.disk), of(&plan.weights));
        there.bytes -= on_disk;
        picks.add(index, Limit::Disk, on_disk / rates.disk);
        picks.work(index, device, there);
        // They come while those that are there are computed; what is read from disk passes the link meanwhile.
        let hidden = picks.total();
        let on_disk = brought.bytes * share(plan.files.disk, plan.files.page_cache);
        let from_disk = on_disk / rates.disk.min(rates.link);
        let over_link = (brought.bytes - on_disk) / rates.link;
        let waited = (1.0 - hidden / (from_disk + over_link)).max(0.0);
        picks.add(index, Limit::Disk, from_disk * waited);
        picks.add(index, Limit::Link, over_link * waited);
        picks.work(index, device, brought);
        Ok(picks)
    }

    /// Dispatches of a layer's experts on a device. `fused`: they are all on the layer's home.
    fn expert_kernels(
        &self,
        index: usize,
        plan: &DevicePlan,
        places: &[Place],
        fused: bool,
        step: &Step,
    ) -> f64 {
        let costs = &self.costs[index];
        let per_slab = costs.layout.slots_per_slab(costs.slot).max(1) as f64;
        let here = places.iter().filter(|place| place.device == index).count() as f64;
        let picks = step.tokens * f64::from(self.config().num_experts_per_tok);
        let slabs = if plan.slots > 0 {
            (f64::from(plan.slots) / per_slab).ceil().min(picks)
        } else {
            (here / per_slab).ceil()
        };
        let grouped = step.tokens >= f64::from(GROUP_FROM);
        if fused && !grouped && slabs <= 1.0 {
            return 2.0;
        }
        let shared = if self.config().n_shared_experts > 0 { SHARED_KERNELS } else { 0.0 };
        // Each slab's two mat-muls, the sum, and what sorts the pairs.
        2.0 * slabs + shared + 1.0 + if grouped { 1.0 } else { 0.0 }
    }
}

/// Tokens that an expert is computed for on average: `tokens` on average, at least one with probability `any`. Adapters
/// compute tiles of tokens, full or not.
fn whole_tiles(device: &Device, tokens: f64, any: f64, of: f64) -> f64 {
    let tile = f64::from(matmul::TOKENS);
    if device.host || of < f64::from(GROUP_FROM) {
        return tokens;
    }
    // Of the last tile of an expert half is empty on average.
    tile * any.max(tokens / tile + any * (tile - 1.0) / (2.0 * tile))
}

/// By how many standard deviations the largest of so many values with the same normal distribution is above their average:
/// the limit for many, which is somewhat high for few.
fn above_average(count: usize) -> f64 {
    if count < 2 {
        return 0.0;
    }
    /// Euler's constant.
    const GAMMA: f64 = 0.577_215_664_901_532_9;
    let log = (count as f64).ln();
    let scale = (2.0 * log).sqrt();
    scale - (log.ln() + (4.0 * std::f64::consts::PI).ln()) / (2.0 * scale) + GAMMA / scale
}

/// Seconds until the last device is done, on average, if each of `picks` picks falls on one of them by itself.
fn slowest(parts: &[Part], picks: f64) -> f64 {
    let count = picks.round() as usize;
    // What each takes by how many fall on it.
    let tables: Vec<(f64, Vec<f64>)> = parts
        .iter()
        .map(|part| (part.share, (0..=count).map(|some| part.total(some, picks)).collect()))
        .collect();
    let mut times: Vec<f64> = tables
        .iter()
        .flat_map(|(share, times)| &times[..if *share > 0.0 { count + 1 } else { 1 }])
        .copied()
        .collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let (mut sum, mut before) = (0.0, 0.0);
    for time in times {
        let now = all_within(&tables, count, time);
        sum += time * (now - before);
        before = now;
    }
    sum
}

/// The probability that no device takes longer than `time`: the part of a multinomial distribution in which each count is
/// small enough.
fn all_within(tables: &[(f64, Vec<f64>)], count: usize, time: f64) -> f64 {
    // ways[n]: n! times the sum over the ways to share n picks among the devices so far.
    let mut ways = vec![0.0; count + 1];
    ways[0] = 1.0;
    for (share, times) in tables {
        let most = times.iter().take_while(|of| **of <= time).count();
        let Some(most) = most.checked_sub(1) else { return 0.0 };
        if *share <= 0.0 {
            continue;
        }
        let before = ways.clone();
        for (n, ways) in ways.iter_mut().enumerate() {
            // The part's binomial weights: n choose some, times share^some.
            let mut term = 1.0;
            *ways = 0.0;
            for some in 0..=most.min(n) {
                *ways += term * before[n - some];
                term *= share * (n - some) as f64 / (some + 1) as f64;
            }
        }
    }
    ways[count].min(1.0)
}

/// What takes time on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Memory,
    Compute,
    Link,
    Disk,
    Dispatches,
    HandOver,
}

impl Limit {
    const ALL: [Limit; 6] =
        [Limit::Memory, Limit::Compute, Limit::Link, Limit::Disk, Limit::Dispatches, Limit::HandOver];

    fn words(self) -> &'static str {
        match self {
            Limit::Memory => "reading its memory",
            Limit::Compute => "computing",
            Limit::Link => "its link",
            Limit::Disk => "reading from disk",
            Limit::Dispatches => "starting kernels",
            Limit::HandOver => "hand-overs",
        }
    }
}

/// Seconds by device and what takes them.
#[derive(Clone, Debug, Default)]
struct Seconds(Vec<(usize, Limit, f64)>);

impl Seconds {
    fn add(&mut self, device: usize, limit: Limit, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        match self.0.iter_mut().find(|(d, l, _)| (*d, *l) == (device, limit)) {
            Some((_, _, sum)) => *sum += seconds,
            None => self.0.push((device, limit, seconds)),
        }
    }

    /// Reading and computing overlap.
    fn work(&mut self, index: usize, device: &Device, asked: Asked) {
        let rates = &device.rates;
        let read = asked.bytes / rates.bandwidth;
        let compute = asked.weights / rates.decode + asked.operations / rates.compute;
        if read >= compute {
            self.add(index, Limit::Memory, read);
        } else {
            self.add(index, Limit::Compute, compute);
        }
    }

    /// Matrices that each of `tokens` tokens is multiplied with, a share of which is read from disk.
    fn matrices(&mut self, index: usize, device: &Device, (matrices, on_disk): (Matrices, f64), tokens: f64) {
        let weights = matrices.weights as f64;
        let tile = f64::from(matmul::TOKENS);
        let in_tiles = !device.host && tokens >= f64::from(MATMUL_FROM);
        let computed = if in_tiles { (tokens / tile).ceil() * tile } else { tokens };
        let bytes = matrices.bytes as f64;
        self.add(index, Limit::Disk, bytes * on_disk / device.rates.disk);
        let bytes = bytes * (1.0 - on_disk);
        let asked = Asked { bytes, weights, operations: 2.0 * weights * computed };
        let kernels = &device.rates.kernels;
        self.work(index, device, asked.slower(kernels.matrices, kernels, tokens));
    }

    fn extend(&mut self, other: Seconds) {
        for (device, limit, seconds) in other.0 {
            self.add(device, limit, seconds);
        }
    }

    fn times(mut self, factor: f64) -> Self {
        self.0.iter_mut().for_each(|(.., seconds)| *seconds *= factor);
        self
    }

    fn total(&self) -> f64 {
        self.0.iter().map(|(.., seconds)| seconds).sum()
    }

    /// What takes most time, and on which device most of it is taken.
    fn largest(&self, devices: &[Device]) -> String {
        let of = |limit: Limit| self.0.iter().filter(move |(_, l, _)| *l == limit);
        let sum = |limit: &Limit| of(*limit).map(|(.., seconds)| seconds).sum::<f64>();
        let what = Limit::ALL.into_iter().max_by(|a, b| sum(a).total_cmp(&sum(b))).expect("a constant");
        // Of equal ones the first.
        let first = of(what).rev().max_by(|a, b| a.2.total_cmp(&b.2));
        let Some((device, _, seconds)) = first else { return "nothing".to_owned() };
        let share = |seconds: f64| 100.0 * seconds / self.total();
        let name = &devices[*device].name;
        if of(what).count() == 1 {
            format!("{name}: {} ({:.0} % of the time)", what.words(), share(*seconds))
        } else {
            format!(
                "{name}: {} ({:.0} % of the time, {:.0} % on all devices)",
                what.words(),
                share(*seconds),
                share(sum(&what))
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(share: f64, always: f64, once: f64, picks: f64) -> Part {
        let seconds = |of: f64| {
            let mut seconds = Seconds::default();
            seconds.add(0, Limit::Memory, of);
            seconds
        };
        Part { share, always: seconds(always), once: seconds(once), picks: seconds(picks) }
    }

    #[test]
    fn the_slowest_device_is_found_among_all_ways_in_which_picks_fall() {
        // Two picks on two equal devices: one each in half of the cases, otherwise both on one.
        let halves = [part(0.5, 0.0, 0.0, 1.0), part(0.5, 0.0, 0.0, 1.0)];
        assert!((slowest(&halves, 2.0) - 1.5).abs() < 1e-12);
        // A hand-over is paid for if anything is picked there.
        let remote = [part(0.5, 3.0, 0.0, 0.0), part(0.5, 0.0, 7.0, 0.0)];
        assert!((slowest(&remote, 2.0) - (0.25 * 3.0 + 0.75 * 7.0)).abs() < 1e-12);
        // All on one.
        let alone = [part(1.0, 2.0, 0.0, 5.0), part(0.0, 0.0, 9.0, 0.0)];
        assert!((slowest(&alone, 8.0) - 7.0).abs() < 1e-12);
    }

    #[test]
    fn the_largest_of_some_is_above_their_average() {
        // Of normal distributions: 0.564, 1.163, 1.766, 2.827.
        for (count, known) in [(1, 0.0), (2, 0.564), (5, 1.163), (16, 1.766), (256, 2.827)] {
            let found = above_average(count);
            assert!(found >= known && found < known + 0.2, "{count}: {found}");
        }
    }

    #[test]
    fn positions_are_averaged_exactly() {
        let step = Step::new([8, 1], 0, 100);
        assert!((step.attended(1e9) - 50.0).abs() < 1e-9);
        // Up to 40 all are attended to, 20 on average; then 40.
        assert!((step.attended(40.0) - (0.4 * 20.0 + 0.6 * 40.0)).abs() < 1e-9);
        let [share, far] = step.beyond(40.0);
        assert!((share - 0.6).abs() < 1e-9 && (far - 0.6 * 70.0).abs() < 1e-9);
        assert!((Step::new([1, 1], 500, 1).attended(40.0) - 40.0).abs() < 1e-9);
    }
}
