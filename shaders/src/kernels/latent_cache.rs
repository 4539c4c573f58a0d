//! Host twin and cases of `latent_cache.wgsl`.

use crate::case::random;
use crate::kernels::{reduce, rope};
use crate::latent_cache::{Bindings, EPS, Overrides, Params};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let tokens = call.groups[0] as usize;
    let (q_lora_rank, kv_lora_rank) = (p.q_lora_rank as usize, p.kv_lora_rank as usize);
    let (rope_dim, index_head_dim) = (p.rope_dim as usize, p.index_head_dim as usize);
    let bound = call.bindings::<Params>();
    let (projected, norms, angles) = (bound.projected.f32(), bound.norms.f32(), bound.rope.f32());
    let cache_rows = bound.cache_rows.u32();
    let (qr, latent_cache, index_cache) =
        (bound.qr.f32_mut(), bound.latent_cache.f32_mut(), bound.index_cache.f32_mut());
    for token in 0..tokens {
        let row = &projected[token * p.stride as usize..][..p.stride as usize];
        let angles = &angles[token * rope_dim..][..rope_dim];
        let cache_row = cache_rows[token] as usize;

        if q_lora_rank > 0 {
            let out = &mut qr[token * q_lora_rank..][..q_lora_rank];
            rms_norm(&row[p.q_a_offset as usize..], &norms[p.q_norm_offset as usize..], out);
        }

        let latent = &row[p.kv_a_offset as usize..][..kv_lora_rank + rope_dim];
        let width = kv_lora_rank + rope_dim;
        let (c, k_pe) = latent_cache[cache_row * width..][..width].split_at_mut(kv_lora_rank);
        rms_norm(latent, &norms[p.kv_norm_offset as usize..], c);
        let rotated = rope::rotated(&latent[kv_lora_rank..], rope_dim, true, angles);
        k_pe.iter_mut().zip(rotated).for_each(|(out, value)| *out = value);

        if index_head_dim > 0 {
            let key = &row[p.index_offset as usize..][..index_head_dim];
            let weight = &norms[p.index_weight_offset as usize..][..index_head_dim];
            let bias = &norms[p.index_bias_offset as usize..][..index_head_dim];
            let mean = reduce::workgroup_sum(key.iter().copied()) / index_head_dim as f32;
            let squares = reduce::workgroup_sum(key.iter().map(|k| (k - mean) * (k - mean)));
            let scale = 1.0 / (squares / index_head_dim as f32 + EPS).sqrt();
            let normed: Vec<f32> =
                (0..index_head_dim).map(|k| ((key[k] - mean) * scale).mul_add(weight[k], bias[k])).collect();
            let out = &mut index_cache[cache_row * index_head_dim..][..index_head_dim];
            out.copy_from_slice(&normed);
            let rotated = rope::rotated(&normed, rope_dim, p.index_interleaved == 1, angles);
            out.iter_mut().zip(rotated).for_each(|(out, value)| *out = value);
        }
    }
}

/// out = x / sqrt(mean x² + eps) · weight over the first out.len() values.
fn rms_norm(x: &[f32], weight: &[f32], out: &mut [f32]) {
    let x = &x[..out.len()];
    let squares = reduce::workgroup_sum(x.iter().map(|v| v * v));
    let scale = 1.0 / (squares / x.len() as f32 + EPS).sqrt();
    for (k, out) in out.iter_mut().enumerate() {
        *out = x[k] * scale * weight[k];
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    [
        ("real sizes", 1, 1536, 512, 64, 128, false),
        ("half-split index rope", 3, 160, 96, 32, 64, false),
        ("interleaved index rope", 3, 160, 96, 32, 64, true),
        ("no q_a", 2, 0, 129, 6, 7, false),
        ("no indexer", 2, 37, 130, 2, 0, false),
        ("whole index key rotated", 5, 1, 3, 8, 8, false),
    ]
    .into_iter()
    .flat_map(|(what, tokens, q_lora_rank, kv_lora_rank, rope_dim, index_head_dim, interleaved)| {
        let sizes = Sizes { tokens, q_lora_rank, kv_lora_rank, rope_dim, index_head_dim };
        sizes.cases(what, interleaved)
    })
    .collect()
}

struct Sizes {
    tokens: usize,
    q_lora_rank: usize,
    kv_lora_rank: usize,
    rope_dim: usize,
    index_head_dim: usize,
}

impl Sizes {
    /// One case per output that has an f64 reference.
    fn cases(&self, what: &str, interleaved: bool) -> Vec<Case> {
        let &Sizes { tokens, q_lora_rank, kv_lora_rank, rope_dim, index_head_dim } = self;
        let width = kv_lora_rank + rope_dim;
        let cache_size = tokens + 3;
        // Gaps between the pieces, so that a wrong offset shows.
        let kv_a_offset = q_lora_rank + 1;
        let index_offset = kv_a_offset + width + 2;
        let stride = index_offset + index_head_dim + 3;
        let index_norm = q_lora_rank + kv_lora_rank;
        let projected = random::f32s(1, tokens * stride);
        let norms = random::f32s(2, index_norm + 2 * index_head_dim);
        let angles = rope::angles(tokens, rope_dim);
        let cache_rows: Vec<u32> = (0..tokens).map(|t| (cache_size - 1 - t) as u32).collect();
        let params = Params {
            stride: stride as u32,
            q_a_offset: 0,
            q_lora_rank: q_lora_rank as u32,
            kv_a_offset: kv_a_offset as u32,
            kv_lora_rank: kv_lora_rank as u32,
            rope_dim: rope_dim as u32,
            index_offset: index_offset as u32,
            index_head_dim: index_head_dim as u32,
            index_interleaved: interleaved.into(),
            q_norm_offset: 0,
            kv_norm_offset: q_lora_rank as u32,
            index_weight_offset: index_norm as u32,
            index_bias_offset: (index_norm + index_head_dim) as u32,
        };

        let mut qr = vec![0.0; (tokens * q_lora_rank).max(1)];
        let mut latents = vec![0.0; cache_size * width];
        let mut keys = vec![0.0; (cache_size * index_head_dim).max(1)];
        for t in 0..tokens {
            let row: Vec<f64> = projected[t * stride..][..stride].iter().map(|v| f64::from(*v)).collect();
            let norms: Vec<f64> = norms.iter().map(|v| f64::from(*v)).collect();
            let angles = &angles[t * rope_dim..][..rope_dim];
            let cache_row = cache_rows[t] as usize;
            let normed = |x: &[f64], weight: &[f64], bias: Option<&[f64]>| -> Vec<f64> {
                let length = x.len() as f64;
                let mean = bias.map_or(0.0, |_| x.iter().sum::<f64>() / length);
                let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / length;
                let scale = 1.0 / (variance + 1e-6).sqrt();
                (0..x.len()).map(|k| (x[k] - mean) * scale * weight[k] + bias.map_or(0.0, |b| b[k])).collect()
            };
            let q = normed(&row[..q_lora_rank], &norms, None);
            qr[t * q_lora_rank..][..q_lora_rank].copy_from_slice(&q);
            let mut latent = normed(&row[kv_a_offset..][..kv_lora_rank], &norms[q_lora_rank..], None);
            latent.extend_from_slice(&row[kv_a_offset + kv_lora_rank..][..rope_dim]);
            rope::reference(&mut latent[kv_lora_rank..], rope_dim, true, angles);
            latents[cache_row * width..][..width].copy_from_slice(&latent);
            if index_head_dim > 0 {
                let bias = Some(&norms[index_norm + index_head_dim..]);
                let mut key = normed(&row[index_offset..][..index_head_dim], &norms[index_norm..], bias);
                rope::reference(&mut key, rope_dim, interleaved, angles);
                keys[cache_row * index_head_dim..][..index_head_dim].copy_from_slice(&key);
            }
        }
        let case = Case::new(
            format!("{what}, {tokens} tokens"),
            params,
            Overrides::default(),
            [tokens as u32, 1, 1],
            Bindings {
                projected: CaseBuffer::f32(&projected),
                norms: CaseBuffer::f32(&norms),
                rope: CaseBuffer::f32(&angles),
                cache_rows: CaseBuffer::u32(&cache_rows),
                qr: CaseBuffer::OutF32(vec![0.0; qr.len()]),
                latent_cache: CaseBuffer::OutF32(vec![0.0; latents.len()]),
                index_cache: CaseBuffer::OutF32(vec![0.0; keys.len()]),
            },
            Tolerance::ELEMENTWISE,
        );
        let outputs = [("qr", 4, qr), ("latent_cache", 5, latents), ("index_cache", 6, keys)];
        let with_reference = |(name, binding, values): (&str, usize, Vec<f64>)| {
            let mut case = case.clone();
            case.name = format!("{}, {name}", case.name);
            case.with_reference(binding, values, Tolerance::ELEMENTWISE)
        };
        outputs.into_iter().map(with_reference).collect()
    }
}
