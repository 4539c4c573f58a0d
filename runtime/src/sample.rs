//! From logits to the next token, on the host.
//!
//! The order of things is fixed: repetition penalty (on the logits, before they come here), temperature, top-k,
//! top-p, min-p, one draw.
//!
//! ```text
//! tokens sorted by descending logit, ties by ascending id:  l_0 ≥ l_1 ≥ …
//! w_i = exp((l_i − l_0) / temperature)              c_n = w_0 + … + w_{n−1}, in f64, in this order
//! top-k keeps the first k; top-p the smallest n with c_n ≥ top_p · c_k; min-p those with w_i ≥ min_p · w_0
//! of the n left, with u uniform in [0, 1):          the first i with c_{i+1} > u · c_n
//! ```
//!
//! That definition needs all logits, but the device reports only its largest ones and Σ w. [`Sampler::choose`]
//! answers from these whenever they settle the token, and says [`Choice::NeedLogits`] otherwise;
//! [`Sampler::choose_full`] then finishes with the same draw. Both give the token of the definition above, so the
//! number of candidates a device reports never changes the text.
//!
//! The generator is ChaCha with 12 rounds ([`rand_chacha::ChaCha12Rng`]): key = the seed as 8 little-endian bytes and
//! 24 zero bytes, stream 0; one `u64` per token, its upper 53 bits over 2^53 are u. Greedy sampling draws nothing.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What goes wrong while sampling.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A parameter outside its range.
    #[error("{name} is {value}, it must be {wanted}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it was.
        value: f32,
        /// What it may be.
        wanted: &'static str,
    },
    /// A logit that is NaN or infinite: the numbers of the forward pass went wrong.
    #[error("the logit of token {id} is {value}: the forward pass produced a number that is not finite")]
    NotFinite {
        /// The token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// There are no logits or no candidates.
    #[error("no logits to choose from")]
    Empty,
    /// A token id beyond the vocabulary.
    #[error("token id {id} is out of range: there are {vocab_size} logits")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// How many logits there are.
        vocab_size: usize,
    },
    /// The device reported the same token twice.
    #[error("token {id} is twice among the candidates")]
    Duplicate {
        /// The token.
        id: u32,
    },
    /// The device's reductions contradict one another.
    #[error("the device reports {name} = {found}, its candidates make it {expected}")]
    Inconsistent {
        /// The quantity.
        name: &'static str,
        /// What was reported.
        found: f64,
        /// What the candidates say; for `sum_exp` the least it can be.
        expected: f64,
    },
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy, otherwise from [`SamplingParams::MIN_TEMPERATURE`] to
    /// [`SamplingParams::MAX_TEMPERATURE`].
    pub temperature: f32,
    /// Keep so many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens that holds this share of the probability; in (0, 1], 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely compared with the most likely one; in [0, 1], 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred; within [`SamplingParams::PENALTIES`], 1
    /// changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the generator; `None` lets the caller pick one, and say which.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    /// The model's own distribution: temperature 1, nothing cut off, nothing penalised.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: None }
    }
}

impl SamplingParams {
    /// The smallest temperature above 0: below it a device's f32 may not hold logit / temperature.
    pub const MIN_TEMPERATURE: f32 = 1e-4;
    /// The largest one: beyond it all tokens are equally likely anyway.
    pub const MAX_TEMPERATURE: f32 = 100.0;
    /// The repetition penalties that leave every logit a number that f32 holds well: nobody means more or less.
    pub const PENALTIES: RangeInclusive<f32> = 0.01..=100.0;

    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether every token is the most likely one.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every parameter's range.
    ///
    /// # Errors
    /// [`SampleError::Parameter`] for the first one outside it.
    pub fn validate(&self) -> Result<(), SampleError> {
        let check = |name, value: f32, fine: bool, wanted| {
            if fine { Ok(()) } else { Err(SampleError::Parameter { name, value, wanted }) }
        };
        let t = self.temperature;
        let warm = (Self::MIN_TEMPERATURE..=Self::MAX_TEMPERATURE).contains(&t);
        check("temperature", t, t == 0.0 || warm, "0 (greedy), or from 0.0001 to 100")?;
        check("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", self.min_p, self.min_p >= 0.0 && self.min_p <= 1.0, "from 0 to 1")?;
        let penalty = self.repetition_penalty;
        let fine = Self::PENALTIES.contains(&penalty);
        check("repetition_penalty", penalty, fine, "from 0.01 to 100, where 1 changes nothing")
    }
}

/// What the device reduced the logits to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// Token ids and logits, in any order: the first so many of all tokens by descending logit, ties by ascending id.
    pub pairs: Vec<(u32, f32)>,
    /// The largest logit.
    pub max: f32,
    /// Σ over all tokens of exp((logit − max) / temperature), right to [`Candidates::SUM_TOLERANCE`]. Greedy sampling
    /// does not look at it.
    pub sum_exp: f64,
    /// How many tokens there are in all.
    pub vocab_size: usize,
}

impl Candidates {
    /// Relative error allowed in `sum_exp`. WGSL's exp is good to 3 + 2|x| ulp, which weighted with the exp itself
    /// stays below 2e-6 of the sum; the f32 tree sum adds 1e-6. A draw this close to a border asks for the logits.
    pub const SUM_TOLERANCE: f64 = 1e-5;
}

/// The answer of [`Sampler::choose`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The next token.
    Token(u32),
    /// The candidates do not settle it: call [`Sampler::choose_full`] with all logits.
    NeedLogits,
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    generator: ChaCha12Rng,
    // The draw of a token that waits for its logits.
    pending: Option<f64>,
}

impl Sampler {
    /// A sampler whose draws follow from `seed` alone; `params.seed` is not looked at.
    ///
    /// # Errors
    /// [`SampleError::Parameter`].
    pub fn new(params: SamplingParams, seed: u64) -> Result<Self, SampleError> {
        params.validate()?;
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Ok(Self { params, generator: ChaCha12Rng::from_seed(key), pending: None })
    }

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses from the device's candidates, or says that they do not suffice; the draw is then kept for
    /// [`Sampler::choose_full`], so that the generator is in the same state either way.
    ///
    /// # Errors
    /// [`SampleError`] for candidates that are not finite, out of range, doubled or contradict the sums; nothing is
    /// drawn then.
    pub fn choose(&mut self, candidates: &Candidates) -> Result<Choice, SampleError> {
        let sorted = checked(candidates)?;
        if self.params.is_greedy() {
            return Ok(Choice::Token(sorted[0].0));
        }
        let ladder = Ladder::new(&sorted, self.params.temperature, candidates.vocab_size);
        let sum = candidates.sum_exp;
        let highest = sum * (1.0 + Candidates::SUM_TOLERANCE);
        // NaN fails this comparison too.
        if !(highest >= ladder.reached() && highest.is_finite()) {
            return Err(SampleError::Inconsistent {
                name: "sum_exp",
                found: sum,
                expected: ladder.reached(),
            });
        }
        let draw = self.draw();
        let place = ladder.choose(&self.params, (sum * (1.0 - Candidates::SUM_TOLERANCE), highest), draw);
        Ok(match place {
            Some(place) => Choice::Token(sorted[place].0),
            None => {
                self.pending = Some(draw);
                Choice::NeedLogits
            }
        })
    }

    /// Chooses from all logits, one per token; after [`Choice::NeedLogits`] with the draw of that token.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`], [`SampleError::Empty`]; nothing is drawn then.
    pub fn choose_full(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        if logits.is_empty() {
            return Err(SampleError::Empty);
        }
        let mut ids: Vec<u32> = (0..u32::try_from(logits.len()).unwrap_or(u32::MAX)).collect();
        if let Some(&id) = ids.iter().find(|&&id| !logits[id as usize].is_finite()) {
            return Err(SampleError::NotFinite { id, value: logits[id as usize] });
        }
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if self.params.is_greedy() {
            let first = logits.iter().position(|&logit| logit == max);
            return Ok(first.map_or(0, |position| position as u32));
        }
        let temperature = f64::from(self.params.temperature);
        let sum: f64 = logits.iter().map(|&logit| weight(logit, max, temperature)).sum();
        let draw = self.draw();
        // Sorting everything is the dear part, so the best few are tried first. They are exact for the same reason
        // the device's candidates are; only the order of summation can differ here, by far less than 1e-9.
        let range = (sum * (1.0 - 1e-9), sum * (1.0 + 1e-9));
        let mut count = 256.max(self.params.top_k as usize);
        loop {
            count = count.min(ids.len());
            if count < ids.len() {
                ids.select_nth_unstable_by(count - 1, |&a, &b| {
                    by_rank((a, logits[a as usize]), (b, logits[b as usize]))
                });
            }
            let mut sorted: Vec<(u32, f32)> =
                ids[..count].iter().map(|&id| (id, logits[id as usize])).collect();
            sorted.sort_unstable_by(|&a, &b| by_rank(a, b));
            let ladder = Ladder::new(&sorted, self.params.temperature, ids.len());
            if let Some(place) = ladder.choose(&self.params, range, draw) {
                return Ok(sorted[place].0);
            }
            assert!(count < ids.len(), "all {count} logits must settle the token");
            count = count.saturating_mul(16);
        }
    }

    fn draw(&mut self) -> f64 {
        self.pending.take().unwrap_or_else(|| (self.generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The host's repetition penalty, applied once to each token of `seen_ids` however often it occurs there: a positive
/// logit is divided by `penalty`, a negative one multiplied.
///
/// # Errors
/// [`SampleError::IdOutOfRange`], [`SampleError::Parameter`]; the logits are untouched then.
pub fn apply_repetition_penalty(
    logits: &mut [f32],
    seen_ids: &[u32],
    penalty: f32,
) -> Result<(), SampleError> {
    SamplingParams { repetition_penalty: penalty, ..SamplingParams::default() }.validate()?;
    if let Some(&id) = seen_ids.iter().find(|&&id| id as usize >= logits.len()) {
        return Err(SampleError::IdOutOfRange { id, vocab_size: logits.len() });
    }
    if penalty == 1.0 {
        return Ok(());
    }
    let mut done = vec![false; logits.len()];
    for &id in seen_ids {
        let id = id as usize;
        if !std::mem::replace(&mut done[id], true) {
            logits[id] = if logits[id] > 0.0 { logits[id] / penalty } else { logits[id] * penalty };
        }
    }
    Ok(())
}

/// Descending logit, then ascending id. The logits are finite; -0 equals 0, as it does on the device.
fn by_rank(a: (u32, f32), b: (u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

fn weight(logit: f32, max: f32, temperature: f64) -> f64 {
    ((f64::from(logit) - f64::from(max)) / temperature).exp()
}

/// The candidates in order, after every check that needs no temperature.
fn checked(candidates: &Candidates) -> Result<Vec<(u32, f32)>, SampleError> {
    let mut sorted = candidates.pairs.clone();
    for &(id, value) in &sorted {
        if !value.is_finite() {
            return Err(SampleError::NotFinite { id, value });
        }
        if id as usize >= candidates.vocab_size {
            return Err(SampleError::IdOutOfRange { id, vocab_size: candidates.vocab_size });
        }
    }
    sorted.sort_unstable_by_key(|pair| pair.0);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(SampleError::Duplicate { id: pair[0].0 });
    }
    sorted.sort_unstable_by(|&a, &b| by_rank(a, b));
    let largest = sorted.first().ok_or(SampleError::Empty)?.1;
    if candidates.max != largest {
        let (found, expected) = (f64::from(candidates.max), f64::from(largest));
        return Err(SampleError::Inconsistent { name: "max", found, expected });
    }
    Ok(sorted)
}

/// The first tokens in order with their weights and running sums: what is known of the distribution.
struct Ladder {
    weights: Vec<f64>,
    // sums[i] = w_0 + … + w_i
    sums: Vec<f64>,
    vocab_size: usize,
}

impl Ladder {
    fn new(sorted: &[(u32, f32)], temperature: f32, vocab_size: usize) -> Self {
        let max = sorted[0].1;
        let weights: Vec<f64> =
            sorted.iter().map(|&(_, logit)| weight(logit, max, f64::from(temperature))).collect();
        let sums = weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        Self { weights, sums, vocab_size }
    }

    fn known(&self) -> usize {
        self.sums.len()
    }

    /// The weight of all known tokens together.
    fn reached(&self) -> f64 {
        self.sums[self.known() - 1]
    }

    /// The first place whose running sum is above `mass`, if it is known.
    fn place_of(&self, mass: f64) -> Option<usize> {
        let place = self.sums.partition_point(|&sum| sum <= mass);
        (place < self.known()).then_some(place)
    }

    /// The place of the token drawn, when it is the same whatever Σ w is within `total` and whatever the unknown
    /// tokens weigh. Every quantity below is an interval (lowest, highest) that holds the true one; each step
    /// grows with the one before, so the true place lies between the two places found and equals them if they agree.
    fn choose(&self, params: &SamplingParams, total: (f64, f64), draw: f64) -> Option<usize> {
        let known = self.known();
        let reached = self.reached();
        let least = self.weights[known - 1];

        // Mass left after top-k.
        let top_k =
            if params.top_k == 0 { self.vocab_size } else { self.vocab_size.min(params.top_k as usize) };
        let mass = if top_k <= known {
            (self.sums[top_k - 1], self.sums[top_k - 1])
        } else {
            // No unknown token outweighs the last known one; the last factor covers rounding of their sum.
            let most = (reached + (top_k - known) as f64 * least) * (1.0 + 1e-9);
            let lowest = if top_k == self.vocab_size { total.0.max(reached) } else { reached };
            (lowest, total.1.min(most).max(lowest))
        };

        // Number of tokens left after top-p and min-p; usize::MAX when it is beyond the known ones.
        let top_p = f64::from(params.top_p);
        let smallest_holding = |share: f64| {
            let place = self.sums.partition_point(|&sum| sum < share);
            if place < known { place + 1 } else { usize::MAX }
        };
        let cut_by_top_p = if params.top_p < 1.0 {
            (smallest_holding(top_p * mass.0), smallest_holding(top_p * mass.1))
        } else {
            (usize::MAX, usize::MAX)
        };
        let likely = self.weights.partition_point(|&weight| weight >= f64::from(params.min_p));
        let cut_by_min_p = if likely < known { likely } else { usize::MAX };
        let left = (top_k.min(cut_by_top_p.0).min(cut_by_min_p), top_k.min(cut_by_top_p.1).min(cut_by_min_p));

        // Mass of those left.
        let lowest = match left.0 {
            count if count <= known => self.sums[count - 1],
            _ if params.min_p > 0.0 => reached,
            _ if params.top_p < 1.0 => reached.max(top_p * mass.0),
            _ => mass.0,
        };
        let highest = match left.1 {
            count if count <= known => self.sums[count - 1],
            // The token that completes the share weighs no more than the last known one.
            _ if params.top_p < 1.0 => mass.1.min(top_p * mass.1 + least),
            _ => mass.1,
        };

        let first = self.place_of(draw * lowest)?;
        let last = self.place_of(draw * highest)?;
        // It is among those left: their lowest mass ends at the last of them, and the draw is below 1.
        (first == last).then_some(first)
    }
}
