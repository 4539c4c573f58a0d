//! The host's kernels against the twins, with every instruction set this processor has.

use porism_runtime::device::run_case;
use porism_runtime::host::{HostExecutor, Path};
use porism_shaders as shaders;
use porism_shaders::case::random;
use porism_shaders::kernels::segments::{Segment, Segments};
use porism_shaders::weights::WeightType;
use porism_shaders::{Case, CaseBuffer, KERNELS, KernelId, Tolerance};

#[test]
fn every_kernel_agrees_with_its_twin() {
    for path in Path::all() {
        for (index, kernel) in KERNELS.iter().enumerate() {
            for case in (kernel.cases)() {
                agrees(path, KernelId(index as u16), &case);
            }
        }
    }
}

/// The host and the twin on one case; NaN agrees with NaN only.
fn agrees(path: Path, kernel: KernelId, case: &Case) {
    let found = run_case(&mut HostExecutor::with(Some(path)), kernel, case).expect("runs");
    let expected = run_case(&mut HostExecutor::twins(), kernel, case).expect("runs");
    for (binding, buffer) in case.buffers.iter().enumerate() {
        let name = format!("{}, {}, {}, binding {binding}", path.name(), kernel.kernel().name, case.name);
        if !matches!(buffer, CaseBuffer::OutF32(_)) {
            assert!(
                matches!(buffer, CaseBuffer::Scratch(_)) || found[binding] == expected[binding],
                "{name}"
            );
            continue;
        }
        for (index, (found, expected)) in
            floats(&found[binding]).iter().zip(floats(&expected[binding])).enumerate()
        {
            let allowed = case.tolerance.absolute + case.tolerance.relative * expected.abs();
            assert!(
                (found.is_nan() && expected.is_nan()) || (found - expected).abs() <= allowed,
                "{name}, value {index}: {found} instead of {expected}"
            );
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// A weight of any type whose E4M3 codes are all 256 in turn, NaN included.
fn bytes_of(kind: WeightType, count: usize) -> Vec<u8> {
    match kind {
        WeightType::F8E4M3 => (0..count).map(|i| i as u8).collect(),
        WeightType::BF16 => random::bf16(3, count),
        WeightType::F16 => {
            random::f32s(3, count).iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
        }
        WeightType::F32 => random::f32s(3, count).iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// `tokens` tokens times a matrix, as mat-vec or as mat-mul.
fn product(
    kind: WeightType,
    bytes: &[u8],
    [rows, cols]: [usize; 2],
    x: &[f32],
    as_matmul: bool,
) -> (KernelId, Case) {
    let tokens = (x.len() / cols) as u32;
    // Sums of a few hundred products of up to 448 in scales that bring them down to 2.
    let scales: Vec<f32> = random::f32s(5, rows.div_ceil(128) * cols.div_ceil(128))
        .iter()
        .map(|s| if kind == WeightType::F8E4M3 { (1.5 + s) / 560.0 } else { f32::NAN })
        .collect();
    let segment = Segment { kind: kind as u32, rows: rows as u32, ..Default::default() };
    let (cols32, rows32) = (cols as u32, rows as u32);
    let out = CaseBuffer::OutF32(vec![0.5; tokens as usize * rows]);
    let unused = || CaseBuffer::u32(&[0; 4]);
    let (weights, scales, x) = (CaseBuffer::weights(bytes), CaseBuffer::f32(&scales), CaseBuffer::f32(x));
    let name = format!("{kind:?}, {rows} rows, {cols} cols, {tokens} tokens");
    if as_matmul {
        let (packed, groups) = Segments::pack(&[segment], shaders::matmul::ROWS, None);
        let params = shaders::matmul::Params {
            cols: cols32,
            x_stride: cols32,
            y_stride: rows32,
            tokens,
            ..Default::default()
        }
        .with(&packed);
        let buffers = shaders::matmul::Bindings {
            weights,
            scales,
            x,
            tiles: unused(),
            pair_order: unused(),
            slots: unused(),
            y: out,
        };
        let groups = [groups, tokens.div_ceil(shaders::matmul::TOKENS), 1];
        let overrides = Default::default();
        (shaders::MATMUL, Case::new(name, params, overrides, groups, buffers, Tolerance::SUM))
    } else {
        let (packed, groups) = Segments::pack(&[segment], shaders::matvec::THREADS, None);
        let params = shaders::matvec::Params {
            cols: cols32,
            x_stride: cols32,
            y_stride: rows32,
            ..Default::default()
        }
        .with(&packed);
        let buffers =
            shaders::matvec::Bindings { weights, scales, x, expert_ids: unused(), slots: unused(), y: out };
        let overrides = Default::default();
        (shaders::MATVEC, Case::new(name, params, overrides, [groups, tokens, 1], buffers, Tolerance::SUM))
    }
}

const KINDS: [WeightType; 4] = [WeightType::F8E4M3, WeightType::BF16, WeightType::F16, WeightType::F32];

#[test]
fn every_code_is_decoded_as_defined() {
    for path in Path::all() {
        let cols = 256;
        let bytes = bytes_of(WeightType::F8E4M3, cols);
        for code in 0..cols {
            // One at a time, so that no other value can hide it; a NaN hides all.
            let mut row = vec![0; cols];
            row[code] = bytes[code];
            let mut x = vec![0.0; cols];
            x[code] = 1.0;
            let (kernel, case) = product(WeightType::F8E4M3, &row, [1, cols], &x, false);
            let found = run_case(&mut HostExecutor::with(Some(path)), kernel, &case).expect("runs");
            let expected = run_case(&mut HostExecutor::twins(), kernel, &case).expect("runs");
            let (found, expected) = (floats(&found[5])[0], floats(&expected[5])[0]);
            assert_eq!(expected.is_nan(), code & 0x7f == 0x7f);
            assert!(
                found == expected || (found.is_nan() && expected.is_nan()),
                "{}, code {code:#04x}: {found} instead of {expected}",
                path.name()
            );
        }
    }
}

#[test]
fn all_widths_and_odd_heights_agree_with_the_twins() {
    for path in Path::all() {
        for kind in KINDS {
            for cols in 1..=300 {
                let rows = 1 + cols % 13;
                let mut bytes = bytes_of(kind, rows * cols);
                if kind == WeightType::F8E4M3 {
                    bytes.iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code ^= 1);
                }
                let tokens = 1 + cols % 5;
                let x = random::f32s(7, tokens * cols);
                for as_matmul in [false, true] {
                    let (kernel, case) = product(kind, &bytes, [rows, cols], &x, as_matmul);
                    agrees(path, kernel, &case);
                }
            }
        }
    }
}

#[test]
fn a_token_gives_the_same_bits_alone_and_among_others() {
    for path in Path::all() {
        for (kind, rows, cols) in KINDS.into_iter().flat_map(|kind| [(kind, 141, 640), (kind, 37, 131)]) {
            let mut bytes = bytes_of(kind, rows * cols);
            bytes.iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code ^= 1);
            let tokens = 11;
            let x = random::f32s(9, tokens * cols);
            let (kernel, case) = product(kind, &bytes, [rows, cols], &x, true);
            let together = run_case(&mut HostExecutor::with(Some(path)), kernel, &case).expect("runs");
            let together = floats(&together[6]);
            for (token, x) in x.chunks(cols).enumerate() {
                let (kernel, case) = product(kind, &bytes, [rows, cols], x, false);
                let alone = run_case(&mut HostExecutor::with(Some(path)), kernel, &case).expect("runs");
                assert_eq!(
                    floats(&alone[5]),
                    &together[token * rows..][..rows],
                    "{}, {}, token {token}",
                    path.name(),
                    case.name
                );
            }
        }
    }
}
