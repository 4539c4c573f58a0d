//! The attention kernels give a token the same bits however the work is cut: alone or among others, with one split or
//! many, whatever the number of threads.

use porism_runtime::device::run_case;
use porism_runtime::gpu::{GpuExecutor, open};
use porism_shaders::case::random;
use porism_shaders::kernels::sparse_attention::{HEADS, TILE, row_length};
use porism_shaders::{
    ABSORB, ATTENTION_OUTPUT, Case, CaseBuffer, SPARSE_ATTENTION, Tolerance, absorb, attention_output,
    sparse_attention,
};
use porism_tests::every_adapter;

const HEAD_COUNT: usize = 9;
const KV_LORA_RANK: usize = 64;
const ROPE_DIM: usize = 16;
const NOPE: usize = 40;
const V: usize = 30;
const K: usize = 600;
const POSITIONS: [u32; 3] = [900, 130, 599];
const WIDTH: usize = KV_LORA_RANK + ROPE_DIM;

fn every_executor() -> impl Iterator<Item = (String, GpuExecutor)> {
    every_adapter().into_iter().enumerate().map(|(index, profile)| {
        let gpu = open(index).expect("an adapter that is listed opens");
        (profile.name, GpuExecutor::new(gpu))
    })
}

/// Sparse attention and its output for the tokens `first .. first + count`.
fn attend(gpu: &mut GpuExecutor, first: usize, count: usize, tiles: usize, threads: u32) -> Vec<u8> {
    let splits = K.div_ceil(TILE * tiles);
    let pages = 15;
    let q_absorbed = random::f32s(1, POSITIONS.len() * HEAD_COUNT * WIDTH);
    let positions = &POSITIONS[first..first + count];
    let mut selected = vec![u32::MAX; count * K];
    for (row, position) in selected.chunks_exact_mut(K).zip(positions) {
        let length = *position as usize + 1;
        let entries = K.min(length);
        row.iter_mut().take(entries).enumerate().for_each(|(e, s)| *s = (e * length / entries) as u32);
    }
    let params = sparse_attention::Params {
        heads: HEAD_COUNT as u32,
        kv_lora_rank: KV_LORA_RANK as u32,
        rope_dim: ROPE_DIM as u32,
        dense: 0,
        k: K as u32,
        k_stride: K as u32,
        pages_per_sequence: pages,
        splits: splits as u32,
        tiles: tiles as u32,
        scale: 1.3,
    };
    let case = Case::new(
        "attend",
        params,
        sparse_attention::Overrides { threads, ..Default::default() },
        [splits as u32, HEAD_COUNT.div_ceil(HEADS) as u32, count as u32],
        sparse_attention::Bindings {
            q_absorbed: CaseBuffer::f32(
                &q_absorbed[first * HEAD_COUNT * WIDTH..][..count * HEAD_COUNT * WIDTH],
            ),
            latent_cache: CaseBuffer::f32(&random::f32s(2, pages as usize * 64 * WIDTH)),
            selected: CaseBuffer::u32(&selected),
            positions: CaseBuffer::u32(positions),
            sequences: CaseBuffer::u32(&vec![0; count]),
            page_table: CaseBuffer::u32(&(0..pages).collect::<Vec<_>>()),
            partial: CaseBuffer::OutF32(vec![0.0; count * HEAD_COUNT * splits * row_length(KV_LORA_RANK)]),
        },
        Tolerance::EXACT,
    );
    let partial = run_case(gpu, SPARSE_ATTENTION, &case).expect("sparse_attention runs").remove(6);
    let params = attention_output::Params {
        heads: HEAD_COUNT as u32,
        nope: NOPE as u32,
        v: V as u32,
        kv_lora_rank: KV_LORA_RANK as u32,
        dense: 0,
        k: K as u32,
        splits: splits as u32,
        tiles: tiles as u32,
        weight_offset: 0,
        scale_offset: 0,
    };
    let case = Case::new(
        "output",
        params,
        attention_output::Overrides::default(),
        [HEAD_COUNT as u32, count as u32, 1],
        attention_output::Bindings {
            partial: CaseBuffer::In(partial),
            weights: CaseBuffer::weights(&random::e4m3(3, HEAD_COUNT * (NOPE + V) * KV_LORA_RANK)),
            scales: CaseBuffer::f32(&random::f32s(4, 16)),
            positions: CaseBuffer::u32(positions),
            out: CaseBuffer::OutF32(vec![0.0; count * HEAD_COUNT * V]),
        },
        Tolerance::EXACT,
    );
    run_case(gpu, ATTENTION_OUTPUT, &case).expect("attention_output runs").remove(4)
}

#[test]
fn attention_has_the_same_bits_in_one_split_or_many_alone_or_among_others() {
    for (name, mut gpu) in every_executor() {
        let expected = attend(&mut gpu, 0, POSITIONS.len(), 1, 32);
        assert!(expected.iter().any(|byte| *byte != 0), "{name}: all zero");
        for (tiles, threads) in [(5, 32), (1, 128), (5, 64)] {
            let found = attend(&mut gpu, 0, POSITIONS.len(), tiles, threads);
            assert!(found == expected, "{name}: {tiles} tiles per split, {threads} threads");
        }
        let token_bytes = HEAD_COUNT * V * 4;
        for token in 0..POSITIONS.len() {
            let alone = attend(&mut gpu, token, 1, 1, 32);
            assert!(
                alone[..] == expected[token * token_bytes..][..token_bytes],
                "{name}: token {token} alone"
            );
        }
    }
}

/// Absorbed queries of the first `count` of six tokens.
fn absorbed(gpu: &mut GpuExecutor, count: usize, at_once: u32, threads: u32) -> Vec<u8> {
    let stride = HEAD_COUNT * (NOPE + ROPE_DIM);
    let params = absorb::Params {
        tokens: count as u32,
        stride: stride as u32,
        query_offset: 0,
        index_offset: 0,
        heads: HEAD_COUNT as u32,
        nope: NOPE as u32,
        rope_dim: ROPE_DIM as u32,
        v: V as u32,
        kv_lora_rank: KV_LORA_RANK as u32,
        index_heads: 0,
        index_head_dim: 0,
        index_interleaved: 0,
        weight_offset: 0,
        scale_offset: 0,
    };
    let case = Case::new(
        "absorb",
        params,
        absorb::Overrides { tokens: at_once, threads, ..Default::default() },
        [HEAD_COUNT as u32, (count as u32).div_ceil(at_once), 1],
        absorb::Bindings {
            queries: CaseBuffer::f32(&random::f32s(1, 6 * stride)),
            weights: CaseBuffer::weights(&random::e4m3(3, HEAD_COUNT * (NOPE + V) * KV_LORA_RANK)),
            scales: CaseBuffer::f32(&random::f32s(4, 16)),
            rope: CaseBuffer::f32(&random::f32s(5, 6 * ROPE_DIM)),
            q_absorbed: CaseBuffer::OutF32(vec![0.0; count * HEAD_COUNT * WIDTH]),
            index_q: CaseBuffer::OutF32(vec![0.0]),
        },
        Tolerance::EXACT,
    );
    run_case(gpu, ABSORB, &case).expect("absorb runs").remove(4)
}

#[test]
fn absorbed_queries_have_the_same_bits_one_token_at_a_time_or_four() {
    for (name, mut gpu) in every_executor() {
        let expected = absorbed(&mut gpu, 6, 1, 32);
        assert!(expected.iter().any(|byte| *byte != 0), "{name}: all zero");
        assert!(absorbed(&mut gpu, 6, 4, 128) == expected, "{name}: four at once");
        let one = absorbed(&mut gpu, 1, 4, 32);
        assert!(one[..] == expected[..one.len()], "{name}: one token of four");
    }
}
