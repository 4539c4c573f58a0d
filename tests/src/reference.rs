//! The model once more, straight from its equations, in f64: what every device is compared with.
//!
//! Nothing here is shared with the engine but the checkpoint's bytes and its typed config. Weights are dequantised exactly,
//! attention is not absorbed, nothing is cached: every token is computed anew from the first one on.

use porism_loader::{
    Checkpoint, Dtype, Family, LayerRole, ModelConfig, Projection, Role, ScaleDtype, Scoring, TopkMethod,
};
use rayon::prelude::*;

/// What the equations give for a sequence of tokens.
#[derive(Clone, Debug, Default)]
pub struct Forward {
    /// (tokens, vocab_size)
    pub logits: Vec<f64>,
    /// (num_hidden_layers + 1, tokens, hidden_size): the embedding, then the residual stream after each layer.
    pub hidden_states: Vec<f64>,
    /// (MoE layers, tokens, num_experts_per_tok), descending selection score.
    pub expert_ids: Vec<i32>,
    /// (MoE layers, tokens): the smallest gap that decides which experts are chosen and in which order they are listed.
    pub expert_margins: Vec<f64>,
    /// The largest margin by which imposed experts are other ones than the equations choose; 0 where they are the same.
    pub overruled_expert_margin: f64,
    /// (num_hidden_layers, tokens, index_topk), ascending positions padded with −1; empty without an indexer.
    pub dsa_indices: Vec<i32>,
    /// (num_hidden_layers · tokens) rows: the indexer's scores of the positions a token may see, its own the last; layers
    /// that share another one's selection repeat its scores. Empty without an indexer.
    pub index_scores: Vec<Vec<f64>>,
}

/// Choices of another run to be followed instead of one's own, with the shapes of [`Forward`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Imposed<'a> {
    /// Experts.
    pub expert_ids: Option<&'a [i32]>,
    /// Positions.
    pub dsa_indices: Option<&'a [i32]>,
}

impl Forward {
    /// The smallest gap between an expert chosen and one that is not, or between two neighbours among those chosen.
    pub fn smallest_expert_margin(&self) -> f64 {
        self.expert_margins.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The smallest gap between a selected position's score and one that is not, in standard deviations of its row.
    pub fn smallest_index_margin(&self, index_topk: u32) -> f64 {
        let rows = self.index_scores.iter().map(|row| index_margin(row, index_topk as usize));
        rows.fold(f64::INFINITY, f64::min)
    }
}

/// By how much selected positions fall short of those left out, in standard deviations of the row: 0 where `selected` are
/// among the k largest.
///
/// # Panics
/// If `selected` are not as many distinct positions as can be selected.
pub fn selection_shortfall(scores: &[f64], k: usize, selected: &[i32]) -> f64 {
    let mut is_selected = vec![false; scores.len()];
    for position in selected.iter().filter(|position| **position >= 0) {
        is_selected[*position as usize] = true;
    }
    let count = is_selected.iter().filter(|selected| **selected).count();
    assert!(count == k.min(scores.len()), "{count} of {} positions are selected", scores.len());
    let of =
        |wanted: bool| scores.iter().zip(&is_selected).filter(move |(_, is)| **is == wanted).map(|(s, _)| *s);
    let worst = of(true).fold(f64::INFINITY, f64::min);
    let best_left_out = of(false).fold(f64::NEG_INFINITY, f64::max);
    if best_left_out > worst { (best_left_out - worst) / deviation(scores) } else { 0.0 }
}

/// Gap between the k-th and the next largest score, in standard deviations of the row; infinite where all are selected, and
/// where both are 0 because no head's dot product is positive: that is a tie in any precision, and the lowest index wins.
pub fn index_margin(scores: &[f64], k: usize) -> f64 {
    if scores.len() <= k {
        return f64::INFINITY;
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    if sorted[k - 1] == 0.0 && sorted[k] == 0.0 {
        return f64::INFINITY;
    }
    (sorted[k - 1] - sorted[k]) / deviation(scores)
}

/// Standard deviation.
pub fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// A weight, dequantised.
struct Matrix {
    /// (rows, cols)
    values: Vec<f64>,
    cols: usize,
}

/// The equations with a checkpoint's weights.
#[derive(Debug)]
pub struct Reference<'c> {
    checkpoint: &'c Checkpoint,
    c: &'c ModelConfig,
    /// Radians per position of each rotated pair.
    frequencies: Vec<f64>,
    amplitude: f64,
    softmax_scale: f64,
}

impl<'c> Reference<'c> {
    /// Of a checkpoint.
    pub fn new(checkpoint: &'c Checkpoint) -> Self {
        let c = checkpoint.config();
        let width = f64::from(c.qk_rope_head_dim);
        let mut frequencies: Vec<f64> = (0..c.qk_rope_head_dim)
            .step_by(2)
            .map(|dim| c.rope_theta.powf(-f64::from(dim) / width))
            .collect();
        let mut amplitude = 1.0;
        let mut softmax_scale = 1.0 / f64::from(c.qk_nope_head_dim + c.qk_rope_head_dim).sqrt();
        if let Some(yarn) = &c.yarn {
            let dim = |rotations: f64| {
                let wavelength = f64::from(yarn.original_max_position_embeddings) / rotations;
                width * (wavelength / std::f64::consts::TAU).ln() / (2.0 * c.rope_theta.ln())
            };
            let low = dim(yarn.beta_fast).floor().max(0.0);
            let high = dim(yarn.beta_slow).ceil().min(width - 1.0);
            let range = if low == high { 0.001 } else { high - low };
            for (pair, frequency) in frequencies.iter_mut().enumerate() {
                let ramp = ((pair as f64 - low) / range).clamp(0.0, 1.0);
                *frequency = ramp * *frequency / yarn.factor + (1.0 - ramp) * *frequency;
            }
            let m = |a: f64| if yarn.factor <= 1.0 { 1.0 } else { 0.1 * a * yarn.factor.ln() + 1.0 };
            let both = yarn.mscale != 0.0 && yarn.mscale_all_dim != 0.0;
            amplitude = if both { m(yarn.mscale) / m(yarn.mscale_all_dim) } else { m(1.0) };
            if yarn.mscale_all_dim != 0.0 {
                softmax_scale *= m(yarn.mscale_all_dim) * m(yarn.mscale_all_dim);
            }
        }
        Reference { checkpoint, c, frequencies, amplitude, softmax_scale }
    }

    /// All tokens of a sequence.
    pub fn forward(&self, ids: &[u32]) -> Forward {
        self.forward_with(ids, Imposed::default())
    }

    /// The same, following choices made elsewhere where they are given. Margins and scores are still the equations' own.
    pub fn forward_with(&self, ids: &[u32], imposed: Imposed<'_>) -> Forward {
        let c = self.c;
        let (tokens, hidden) = (ids.len(), c.hidden_size as usize);
        let embedding = self.matrix(Role::Embedding);
        let mut h: Vec<f64> = Vec::with_capacity(tokens * hidden);
        for id in ids {
            h.extend_from_slice(&embedding.values[*id as usize * hidden..][..hidden]);
        }
        let mut out = Forward { hidden_states: h.clone(), ..Forward::default() };
        let mut selected = None;
        for layer in 0..c.num_hidden_layers {
            let x = rms(&h, &self.layer_vector(layer, LayerRole::InputLayernorm), c.rms_norm_eps);
            let attended = self.attention(layer, &x, tokens, &mut selected, imposed, &mut out);
            add(&mut h, &attended);
            let x = rms(&h, &self.layer_vector(layer, LayerRole::PostAttentionLayernorm), c.rms_norm_eps);
            let moe =
                c.n_routed_experts > 0 && layer >= c.first_k_dense_replace && layer % c.moe_layer_freq == 0;
            let y = if moe {
                self.moe(layer, &x, tokens, imposed, &mut out)
            } else {
                self.mlp(&x, Projection::ALL.map(|p| Role::layer(layer, LayerRole::Mlp(p))))
            };
            add(&mut h, &y);
            out.hidden_states.extend_from_slice(&h);
        }
        let norm = self.matrix(Role::FinalNorm).values;
        let head = if c.tie_word_embeddings { Role::Embedding } else { Role::LmHead };
        out.logits = self.linear(&rms(&h, &norm, c.rms_norm_eps), head);
        out
    }

    /// (tokens, hidden_size)
    fn attention(
        &self,
        layer: u32,
        x: &[f64],
        tokens: usize,
        selected: &mut Option<Vec<Vec<usize>>>,
        imposed: Imposed<'_>,
        out: &mut Forward,
    ) -> Vec<f64> {
        let c = self.c;
        let role = |part| Role::layer(layer, part);
        let (heads, nope, rope) =
            (c.num_attention_heads as usize, c.qk_nope_head_dim as usize, c.qk_rope_head_dim as usize);
        let (v_dim, rank) = (c.v_head_dim as usize, c.kv_lora_rank as usize);
        let head = nope + rope;
        let (qr, mut q) = if c.q_lora_rank.is_some() {
            let weight = self.layer_vector(layer, LayerRole::QALayernorm);
            let qr = rms(&self.linear(x, role(LayerRole::QAProj)), &weight, 1e-6);
            let q = self.linear(&qr, role(LayerRole::QBProj));
            (qr, q)
        } else {
            (vec![], self.linear(x, role(LayerRole::QProj)))
        };
        for (position, row) in q.chunks_exact_mut(heads * head).enumerate() {
            for query in row.chunks_exact_mut(head) {
                self.rotate(&mut query[nope..], position, true);
            }
        }
        let (mut latent, mut k_pe) = (Vec::new(), Vec::new());
        for row in self.linear(x, role(LayerRole::KvAProjWithMqa)).chunks_exact(rank + rope) {
            latent.extend_from_slice(&row[..rank]);
            k_pe.extend_from_slice(&row[rank..]);
        }
        for (position, key) in k_pe.chunks_exact_mut(rope).enumerate() {
            self.rotate(key, position, true);
        }
        let latent = rms(&latent, &self.layer_vector(layer, LayerRole::KvALayernorm), 1e-6);
        let kv = self.linear(&latent, role(LayerRole::KvBProj));

        if let Some(indexer) = &c.indexer {
            let topk = indexer.index_topk as usize;
            if indexer.shared_layers.contains(&layer) {
                let above = out.index_scores[out.index_scores.len() - tokens..].to_vec();
                out.index_scores.extend(above);
            } else {
                let scores = self.index_scores(layer, x, &qr, tokens);
                *selected = Some(scores.par_iter().map(|row| largest(row, topk)).collect());
                out.index_scores.extend(scores);
            }
            let chosen = selected.as_mut().expect("layer 0 has an indexer of its own");
            if let Some(indices) = imposed.dsa_indices {
                let rows = indices[layer as usize * tokens * topk..].chunks_exact(topk).take(tokens);
                *chosen =
                    rows.map(|row| row.iter().filter(|s| **s >= 0).map(|s| *s as usize).collect()).collect();
            }
            for row in chosen.iter() {
                let padded = row.iter().map(|s| *s as i32).chain(std::iter::repeat(-1));
                out.dsa_indices.extend(padded.take(topk));
            }
        }

        let selected: Option<&Vec<Vec<usize>>> = selected.as_ref();
        let attended: Vec<f64> = (0..tokens)
            .into_par_iter()
            .flat_map_iter(|t| {
                let all: Vec<usize>;
                let positions = match selected {
                    Some(rows) => &rows[t],
                    None => {
                        all = (0..=t).collect();
                        &all
                    }
                };
                let mut row = vec![0.0; heads * v_dim];
                for (h, y) in row.chunks_exact_mut(v_dim).enumerate() {
                    let query = &q[(t * heads + h) * head..][..head];
                    let of = |s: usize| &kv[(s * heads + h) * (nope + v_dim)..][..nope + v_dim];
                    let logits: Vec<f64> = positions
                        .iter()
                        .map(|s| {
                            let key = dot(&query[..nope], &of(*s)[..nope]);
                            (key + dot(&query[nope..], &k_pe[s * rope..][..rope])) * self.softmax_scale
                        })
                        .collect();
                    for (s, p) in positions.iter().zip(softmax(&logits)) {
                        for (y, value) in y.iter_mut().zip(&of(*s)[nope..]) {
                            *y += p * value;
                        }
                    }
                }
                row
            })
            .collect();
        self.linear(&attended, role(LayerRole::OProj))
    }

    /// I(t, s) for s ≤ t.
    fn index_scores(&self, layer: u32, x: &[f64], qr: &[f64], tokens: usize) -> Vec<Vec<f64>> {
        let indexer = self.c.indexer.as_ref().expect("the model has one");
        let role = |part| Role::layer(layer, part);
        let (heads, dim) = (indexer.index_n_heads as usize, indexer.index_head_dim as usize);
        let rope = self.c.qk_rope_head_dim as usize;
        let mut q = self.linear(qr, role(LayerRole::IndexerWqB));
        for (position, row) in q.chunks_exact_mut(heads * dim).enumerate() {
            for query in row.chunks_exact_mut(dim) {
                self.rotate(&mut query[..rope], position, indexer.rope_interleave);
            }
        }
        let mut k = self.linear(x, role(LayerRole::IndexerWk));
        let weight = self.layer_vector(layer, LayerRole::IndexerKNorm);
        let bias = self.layer_vector(layer, LayerRole::IndexerKNormBias);
        for (position, key) in k.chunks_exact_mut(dim).enumerate() {
            let mean = key.iter().sum::<f64>() / dim as f64;
            let variance = key.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
            for ((value, weight), bias) in key.iter_mut().zip(&weight).zip(&bias) {
                *value = (*value - mean) / (variance + 1e-6).sqrt() * weight + bias;
            }
            self.rotate(&mut key[..rope], position, indexer.rope_interleave);
        }
        let w = self.linear(x, role(LayerRole::IndexerWeightsProj));
        let scale = 1.0 / ((heads as f64).sqrt() * (dim as f64).sqrt());
        (0..tokens)
            .into_par_iter()
            .map(|t| {
                let score = |s: usize| -> f64 {
                    let key = &k[s * dim..][..dim];
                    let of_head =
                        |h: usize| dot(&q[(t * heads + h) * dim..][..dim], key).max(0.0) * w[t * heads + h];
                    (0..heads).map(of_head).sum::<f64>() * scale
                };
                (0..=t).map(score).collect()
            })
            .collect()
    }

    /// (tokens, hidden_size): the experts chosen for each token, and the shared ones.
    fn moe(&self, layer: u32, x: &[f64], tokens: usize, imposed: Imposed<'_>, out: &mut Forward) -> Vec<f64> {
        let c = self.c;
        let (hidden, picks) = (c.hidden_size as usize, c.num_experts_per_tok as usize);
        let scores = self.linear(x, Role::layer(layer, LayerRole::RouterGate));
        let experts = c.n_routed_experts as usize;
        let bias = self.checkpoint.tensor(Role::layer(layer, LayerRole::ScoreCorrectionBias));
        let bias = bias.map(|tensor| self.matrix(tensor.role).values);
        // (expert, weight) of each token.
        let mut chosen: Vec<Vec<(usize, f64)>> = Vec::with_capacity(tokens);
        for (t, row) in scores.chunks_exact(experts).enumerate() {
            let s: Vec<f64> = match c.scoring {
                Scoring::Softmax => softmax(row),
                Scoring::Sigmoid => row.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
            };
            let pick: Vec<f64> = match &bias {
                Some(bias) => s.iter().zip(bias).map(|(s, b)| s + b).collect(),
                None => s.clone(),
            };
            let (mut ids, margin) = choose_experts(c, pick);
            out.expert_margins.push(margin);
            if let Some(imposed) = imposed.expert_ids {
                let row = out.expert_ids.len();
                assert!(
                    row + picks <= imposed.len(),
                    "layer {layer}, token {t}: {} experts imposed",
                    imposed.len()
                );
                let own = std::mem::replace(
                    &mut ids,
                    imposed[row..row + picks].iter().map(|id| *id as usize).collect(),
                );
                if ids != own {
                    out.overruled_expert_margin = out.overruled_expert_margin.max(margin);
                }
            }
            out.expert_ids.extend(ids.iter().map(|id| *id as i32));
            let mut weights: Vec<f64> = ids.iter().map(|id| s[*id]).collect();
            let normalise = c.norm_topk_prob && picks > 1;
            if normalise {
                let sum: f64 = weights.iter().sum::<f64>() + 1e-20;
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            if !(normalise && c.model_type == Family::DeepseekV2) {
                weights.iter_mut().for_each(|w| *w *= c.routed_scaling_factor);
            }
            chosen.push(ids.into_iter().zip(weights).collect());
        }
        let mut y = vec![0.0; tokens * hidden];
        for expert in 0..c.n_routed_experts {
            let of_token =
                |t: usize| chosen[t].iter().find(|(id, _)| *id == expert as usize).map(|(_, w)| (t, *w));
            let takers: Vec<(usize, f64)> = (0..tokens).filter_map(of_token).collect();
            if takers.is_empty() {
                continue;
            }
            let rows: Vec<f64> =
                takers.iter().flat_map(|(t, _)| &x[t * hidden..][..hidden]).copied().collect();
            let role = |projection| Role::layer(layer, LayerRole::Expert { expert, projection });
            let result = self.mlp(&rows, Projection::ALL.map(role));
            for ((t, weight), row) in takers.iter().zip(result.chunks_exact(hidden)) {
                for (y, value) in y[t * hidden..][..hidden].iter_mut().zip(row) {
                    *y += weight * value;
                }
            }
        }
        if c.n_shared_experts > 0 {
            add(&mut y, &self.mlp(x, Projection::ALL.map(|p| Role::layer(layer, LayerRole::Shared(p)))));
        }
        y
    }

    fn mlp(&self, x: &[f64], [gate, up, down]: [Role; 3]) -> Vec<f64> {
        let mut act = self.linear(x, gate);
        for (a, u) in act.iter_mut().zip(self.linear(x, up)) {
            *a = *a / (1.0 + (-*a).exp()) * u;
        }
        self.linear(&act, down)
    }

    /// x Wᵀ for rows of x.
    fn linear(&self, x: &[f64], role: Role) -> Vec<f64> {
        let w = self.matrix(role);
        x.par_chunks_exact(w.cols)
            .flat_map_iter(|x| w.values.chunks_exact(w.cols).map(move |row| dot(x, row)))
            .collect()
    }

    fn layer_vector(&self, layer: u32, part: LayerRole) -> Vec<f64> {
        self.matrix(Role::layer(layer, part)).values
    }

    /// W[i, j] = value · scale[i / 128, j / 128], decoded from the bytes by the formats' definitions.
    fn matrix(&self, role: Role) -> Matrix {
        let tensor = self.checkpoint.tensor(role).unwrap_or_else(|| panic!("the checkpoint has no {role}"));
        let cols = tensor.shape.columns() as usize;
        let mut values: Vec<f64> = match tensor.dtype {
            Dtype::F32 => tensor.bytes.chunks_exact(4).map(|b| float(bits(b), 8, 23)).collect(),
            Dtype::Bf16 => tensor.bytes.chunks_exact(2).map(|b| float(bits(b), 8, 7)).collect(),
            Dtype::F16 => tensor.bytes.chunks_exact(2).map(|b| float(bits(b), 5, 10)).collect(),
            Dtype::F8E4m3 => tensor.bytes.iter().map(|b| float(u32::from(*b), 4, 3)).collect(),
        };
        if let Some(scale) = tensor.scale {
            let scales: Vec<f64> = match scale.dtype {
                ScaleDtype::F32 => scale.bytes.chunks_exact(4).map(|b| float(bits(b), 8, 23)).collect(),
                ScaleDtype::Bf16 => scale.bytes.chunks_exact(2).map(|b| float(bits(b), 8, 7)).collect(),
                ScaleDtype::F8E8m0 => scale.bytes.iter().map(|b| 2f64.powi(i32::from(*b) - 127)).collect(),
            };
            let per_row = cols.div_ceil(128);
            for (i, row) in values.chunks_exact_mut(cols).enumerate() {
                for (j, value) in row.iter_mut().enumerate() {
                    *value *= scales[i / 128 * per_row + j / 128];
                }
            }
        }
        Matrix { values, cols }
    }

    /// Rotates pairs (2i, 2i + 1), or (i, i + R/2) where not interleaved.
    fn rotate(&self, x: &mut [f64], position: usize, interleaved: bool) {
        let half = x.len() / 2;
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (sin, cos) = (sin * self.amplitude, cos * self.amplitude);
            (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
        }
    }
}

/// Which experts by their selection scores, and the smallest gap that had a say in it.
fn choose_experts(c: &ModelConfig, mut pick: Vec<f64>) -> (Vec<usize>, f64) {
    let mut margin = f64::INFINITY;
    let groups = c.n_group as usize;
    if c.topk_method != TopkMethod::Greedy && groups > 1 {
        let size = pick.len() / groups;
        let of_group = |group: &[f64]| {
            let mut sorted = group.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            if c.topk_method == TopkMethod::NoauxTc { sorted[0] + sorted[1] } else { sorted[0] }
        };
        let scores: Vec<f64> = pick.chunks_exact(size).map(of_group).collect();
        let order = descending(&scores);
        let kept = c.topk_group as usize;
        if kept < groups {
            margin = scores[order[kept - 1]] - scores[order[kept]];
        }
        for group in &order[kept..] {
            pick[group * size..][..size].fill(f64::NEG_INFINITY);
        }
    }
    let mut order = descending(&pick);
    for pair in order.windows(2).take(c.num_experts_per_tok as usize) {
        margin = margin.min(pick[pair[0]] - pick[pair[1]]);
    }
    order.truncate(c.num_experts_per_tok as usize);
    (order, margin)
}

/// Indices by descending value, ties by ascending index.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].partial_cmp(&values[*a]).expect("scores are numbers"));
    order
}

/// Ascending indices of the k largest.
fn largest(values: &[f64], k: usize) -> Vec<usize> {
    let mut order = descending(values);
    order.truncate(k);
    order.sort_unstable();
    order
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// x · weight / √(mean(x²) + eps) for rows of x.
fn rms(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let mean = dot(row, row) / row.len() as f64;
        let factor = 1.0 / (mean + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(v, w)| v * factor * w));
    }
    out
}

fn add(x: &mut [f64], y: &[f64]) {
    assert!(x.len() == y.len(), "{} and {} values", x.len(), y.len());
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert!(a.len() == b.len(), "{} and {} values", a.len(), b.len());
    // Eight sums side by side: strict order would keep the compiler from using vectors.
    let mut sums = [0.0; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

fn bits(little_endian: &[u8]) -> u32 {
    little_endian.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte))
}

/// A finite number with a sign bit, `exponent` and `mantissa` bits: the definition of F32, BF16, F16 and E4M3.
fn float(bits: u32, exponent: u32, mantissa: u32) -> f64 {
    let bias = (1 << (exponent - 1)) - 1;
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1u32 << mantissa);
    let power = (bits >> mantissa & ((1 << exponent) - 1)) as i32;
    let magnitude =
        if power == 0 { fraction * 2f64.powi(1 - bias) } else { (1.0 + fraction) * 2f64.powi(power - bias) };
    if bits >> (exponent + mantissa) & 1 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;
    use porism_loader::Options;

    /// Two independent computations in f64, one of them stored as f32, differ by f32's rounding only.
    #[test]
    fn reference_agrees_with_the_golden_values() {
        for name in ["v2-lite-tiny-bf16", "v3-tiny-bf16", "v32-tiny-fp8"] {
            let golden = Golden::open(name);
            let checkpoint = Checkpoint::open(&golden.directory, Options::default()).expect("it opens");
            let found = Reference::new(&checkpoint).forward(&golden.ids("input_ids"));
            let relative = |found: &[f64], expected: &[f32]| {
                assert!(found.len() == expected.len(), "{} values, {} expected", found.len(), expected.len());
                let difference: f64 =
                    found.iter().zip(expected).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum();
                (difference / found.iter().map(|a| a * a).sum::<f64>()).sqrt()
            };
            let logits = relative(&found.logits, &golden.f32("logits"));
            let hidden = relative(&found.hidden_states, &golden.f32("hidden_states"));
            assert!(
                logits < 1e-7 && hidden < 1e-7,
                "{name}: logits {logits:.1e}, hidden states {hidden:.1e}"
            );
            assert!(found.expert_ids == golden.i32("expert_ids"), "{name}: other experts");
            if golden.has("dsa_indices") {
                assert!(found.dsa_indices == golden.i32("dsa_indices"), "{name}: other positions");
                let all: Vec<f32> = golden.f32("index_scores");
                let finite: Vec<f32> = all.into_iter().filter(|score| score.is_finite()).collect();
                let scores = relative(&found.index_scores.concat(), &finite);
                assert!(scores < 1e-7, "{name}: indexer scores {scores:.1e}");
            }
        }
    }
}
