// From one token's projected row: qr = rms(q_a) · w; latent_cache = rms(c) · w | rope(k_pe); index_cache = rope(layer_norm(k)).
// rms(x) = x / sqrt(mean x² + 1e-6)    layer_norm(x) = (x − mean) / sqrt(var + 1e-6) · weight + bias
// projected: f32 (T, stride), holding q_a (q_lora_rank) at q_a_offset, c and k_pe (kv_lora_rank + rope_dim) at kv_a_offset
// and the indexer's key (index_head_dim) at index_offset; a length of 0 leaves q_a or the indexer out
// norms: f32, the layer's small vectors   rope: (cos, sin) (T, rope_dim / 2)   cache_rows: u32 (T)   qr: f32 (T, q_lora_rank)
// latent_cache: f32 (rows, kv_lora_rank + rope_dim)   index_cache: f32 (rows, index_head_dim)
// k_pe is rotated in interleaved pairs, the first rope_dim values of the indexer's key in half-split or interleaved ones.
// One workgroup per token.

import package::lib::reduce::workgroup_sum;
import package::lib::rope::{rope_pair, rope_is_first, rope_partner, rotated};

struct Params {
    stride: u32,
    q_a_offset: u32,
    q_lora_rank: u32, // 0: the model has no q_a_proj
    kv_a_offset: u32,
    kv_lora_rank: u32,
    rope_dim: u32,
    index_offset: u32,
    index_head_dim: u32, // 0: the model has no indexer
    index_interleaved: u32, // 1: the indexer's key is rotated in interleaved pairs
    q_norm_offset: u32, // these four: where in norms
    kv_norm_offset: u32,
    index_weight_offset: u32,
    index_bias_offset: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> projected: array<f32>;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read> rope: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> cache_rows: array<u32>;
@group(0) @binding(4) var<storage, read_write> qr: array<f32>;
@group(0) @binding(5) var<storage, read_write> latent_cache: array<f32>;
@group(0) @binding(6) var<storage, read_write> index_cache: array<f32>;

const LANES: u32 = 128u;
// The norms of the latents have this one whatever rms_norm_eps says.
const EPS: f32 = 1e-6;

fn rms_scale(lane: u32, start: u32, length: u32) -> f32 {
    var squares = 0.0;
    for (var k = lane; k < length; k += LANES) {
        squares = fma(projected[start + k], projected[start + k], squares);
    }
    return inverseSqrt(workgroup_sum(lane, squares) / f32(length) + EPS);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x;
    let row = token * params.stride;
    let angles = token * (params.rope_dim / 2u);

    if (params.q_lora_rank > 0u) {
        let start = row + params.q_a_offset;
        let scale = rms_scale(lane, start, params.q_lora_rank);
        for (var k = lane; k < params.q_lora_rank; k += LANES) {
            qr[token * params.q_lora_rank + k] = projected[start + k] * scale * norms[params.q_norm_offset + k];
        }
    }

    let latent = row + params.kv_a_offset;
    let latent_row = cache_rows[token] * (params.kv_lora_rank + params.rope_dim);
    let latent_scale = rms_scale(lane, latent, params.kv_lora_rank);
    for (var k = lane; k < params.kv_lora_rank; k += LANES) {
        latent_cache[latent_row + k] = projected[latent + k] * latent_scale * norms[params.kv_norm_offset + k];
    }
    let k_pe = latent + params.kv_lora_rank;
    for (var k = lane; k < params.rope_dim; k += LANES) {
        let angle = rope[angles + rope_pair(k, params.rope_dim, true)];
        let partner = projected[k_pe + rope_partner(k, params.rope_dim, true)];
        latent_cache[latent_row + params.kv_lora_rank + k] =
            rotated(projected[k_pe + k], partner, rope_is_first(k, params.rope_dim, true), angle);
    }

    if (params.index_head_dim > 0u) {
        let start = row + params.index_offset;
        let index_row = cache_rows[token] * params.index_head_dim;
        let interleaved = params.index_interleaved == 1u;
        var sum = 0.0;
        for (var k = lane; k < params.index_head_dim; k += LANES) {
            sum += projected[start + k];
        }
        let mean = workgroup_sum(lane, sum) / f32(params.index_head_dim);
        var squares = 0.0;
        for (var k = lane; k < params.index_head_dim; k += LANES) {
            let distance = projected[start + k] - mean;
            squares = fma(distance, distance, squares);
        }
        let scale = inverseSqrt(workgroup_sum(lane, squares) / f32(params.index_head_dim) + EPS);
        for (var k = lane; k < params.index_head_dim; k += LANES) {
            var value = index_key(start, k, mean, scale);
            if (k < params.rope_dim) {
                let angle = rope[angles + rope_pair(k, params.rope_dim, interleaved)];
                let partner = index_key(start, rope_partner(k, params.rope_dim, interleaved), mean, scale);
                value = rotated(value, partner, rope_is_first(k, params.rope_dim, interleaved), angle);
            }
            index_cache[index_row + k] = value;
        }
    }
}

// The indexer's key after its norm, before rope.
fn index_key(start: u32, k: u32, mean: f32, scale: f32) -> f32 {
    let weight = norms[params.index_weight_offset + k];
    return fma((projected[start + k] - mean) * scale, weight, norms[params.index_bias_offset + k]);
}
