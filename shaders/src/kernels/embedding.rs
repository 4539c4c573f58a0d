//! Host twin and cases of `embedding.wgsl`.

use crate::case::random;
use crate::embedding::{Bindings, Overrides, Params, THREADS};
use crate::weights::{BLOCK, WeightType};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let overrides = call.overrides::<Params>();
    let tokens = call.groups[1] as usize;
    let cols = p.cols as usize;
    let kind = WeightType::from_code(overrides.weight_type);
    let bound = call.bindings::<Params>();
    let (weights, scales, token_ids, h) =
        (bound.weights.weights(), bound.scales.f32(), bound.token_ids.u32(), bound.h.f32_mut());
    let row_bytes = cols * kind.bytes();
    for (id, out) in token_ids[..tokens].iter().zip(h.chunks_exact_mut(cols)) {
        let row = id.wrapping_sub(p.first_row);
        if row >= p.rows {
            continue;
        }
        let row = row as usize;
        kind.decode(weights.get(p.weight_offset as usize + row * row_bytes, row_bytes), out);
        if kind == WeightType::F8E4M3 {
            let scales = &scales[p.scale_offset as usize + row / BLOCK * cols.div_ceil(BLOCK)..];
            for (block, scale) in out.chunks_mut(BLOCK).zip(scales) {
                block.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    // (type, rows of the window, cols, first row, ids)
    let all: [(WeightType, usize, usize, u32, &[u32]); 7] = [
        (BF16, 7, 7168, 0, &[3, 0, 6, 3]),
        (BF16, 9, 129, 100, &[100, 108, 99, 109, 104, 0, u32::MAX]),
        (F16, 5, 33, 0, &[4, 1, 0]),
        (F32, 4, 301, 2, &[5, 2, 1]),
        (F8E4M3, 130, 131, 0, &[0, 127, 128, 129]),
        (F8E4M3, 200, 257, 128, &[128, 255, 256, 327, 328, 127]),
        (F8E4M3, 256, 128, 0, &[255, 1]),
    ];
    all.into_iter()
        .map(|(kind, rows, cols, first_row, ids)| {
            let weight_offset = 48;
            let bytes = table(kind, rows * cols);
            let mut window = vec![0xff; weight_offset];
            window.extend(&bytes);
            let scales = random::f32s(5, 3 + rows.div_ceil(BLOCK) * cols.div_ceil(BLOCK));
            let untouched = random::f32s(6, ids.len() * cols);
            let mut expected: Vec<f64> = untouched.iter().copied().map(f64::from).collect();
            for (t, id) in
                ids.iter().enumerate().filter(|(_, id)| (first_row..first_row + rows as u32).contains(id))
            {
                let row = (id - first_row) as usize;
                for k in 0..cols {
                    let mut value = [0.0];
                    kind.decode(&bytes[(row * cols + k) * kind.bytes()..][..kind.bytes()], &mut value);
                    let scale = scales[3 + row / BLOCK * cols.div_ceil(BLOCK) + k / BLOCK];
                    let scale = if kind == F8E4M3 { f64::from(scale) } else { 1.0 };
                    expected[t * cols + k] = f64::from(value[0]) * scale;
                }
            }
            let params = Params {
                cols: cols as u32,
                first_row,
                rows: rows as u32,
                weight_offset: weight_offset as u32,
                scale_offset: 3,
            };
            let buffers = Bindings {
                weights: CaseBuffer::weights(&window),
                scales: CaseBuffer::f32(&scales),
                token_ids: CaseBuffer::u32(ids),
                h: CaseBuffer::OutF32(untouched),
            };
            let name = format!("{kind:?}, rows {first_row}..{}, {cols} cols", first_row + rows as u32);
            let overrides = Overrides { weight_type: kind as u32 };
            let groups = [(cols as u32).div_ceil(THREADS), ids.len() as u32, 1];
            Case::new(name, params, overrides, groups, buffers, Tolerance::ELEMENTWISE).with_reference(
                3,
                expected,
                Tolerance::ELEMENTWISE,
            )
        })
        .collect()
}

/// Random bytes of `count` elements.
fn table(kind: WeightType, count: usize) -> Vec<u8> {
    match kind {
        WeightType::F8E4M3 => random::e4m3(4, count),
        WeightType::BF16 => random::bf16(4, count),
        WeightType::F16 => {
            random::f32s(4, count).iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
        }
        WeightType::F32 => random::f32s(4, count).iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}
