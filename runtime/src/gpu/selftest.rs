//! An adapter is trusted only after it has computed known things rightly: drivers lie.

use porism_shaders as shaders;
use porism_shaders::case::random;
use porism_shaders::float8::E4M3;
use porism_shaders::kernels::matvec_lanes;
use porism_shaders::kernels::segments::{Segment, Segments};
use porism_shaders::weights::WeightType;
use porism_shaders::{Case, CaseBuffer, Features, Interface as _, KernelId, Tolerance};

use super::adapter::Gpu;
use super::executor::GpuExecutor;
use crate::device::{Executor, SelfTest, Verdict, run_case};
use crate::error::Error;
use crate::recording::{Dispatch, Groups, Label, Recording, View};

/// Tries something and says what differed, if anything.
type Test = fn(&Gpu) -> Result<String, Error>;

/// Runs the self-tests on an opened adapter and switches off what fails; what every model needs must pass.
pub(super) fn run(gpu: &mut Gpu) -> Result<(), Error> {
    let half = optional(gpu, Features::HALF, fp8_decode)?;
    let required: [(&'static str, Test); 3] =
        [("fp8_decode", fp8_decode), ("bf16_decode", bf16_decode), ("indirect_dispatch", indirect_dispatch)];
    let mut tests = Vec::new();
    for (name, test) in required {
        let verdict = verdict(test(gpu)?);
        tests.push(SelfTest { name, verdict });
    }
    let subgroups = optional(gpu, Features::BROADCAST, broadcast)?;
    tests.push(SelfTest { name: "subgroup_broadcast", verdict: subgroups });
    let shuffle = optional(gpu, Features::SHUFFLE, shuffle)?;
    tests.push(SelfTest { name: "subgroup_shuffle", verdict: shuffle });
    tests.push(SelfTest { name: "fp8_decode_f16", verdict: half });
    // No kernel computes in f16, so that a driver whose f16 is wrong can do no harm.
    tests.push(SelfTest { name: "f16_compute", verdict: Verdict::Absent });
    gpu.profile.selftest = tests;
    let failed = gpu.profile.selftest.iter().find_map(|test| match &test.verdict {
        Verdict::Fail(reason) if required.iter().any(|(name, _)| *name == test.name) => {
            Some((test.name, reason))
        }
        _ => None,
    });
    match failed {
        None => Ok(()),
        Some((test, reason)) => {
            Err(Error::SelfTest { device: gpu.profile.name.clone(), test, reason: reason.clone() })
        }
    }
}

/// Tests an optional feature where it is on, and switches it off if it fails.
fn optional(gpu: &mut Gpu, feature: Features, test: Test) -> Result<Verdict, Error> {
    if !gpu.tuning.features.contains(feature) {
        return Ok(Verdict::Absent);
    }
    let verdict = verdict(test(gpu)?);
    if verdict != Verdict::Pass {
        gpu.tuning.features = gpu.tuning.features.without(feature);
    }
    Ok(verdict)
}

fn verdict(difference: String) -> Verdict {
    if difference.is_empty() { Verdict::Pass } else { Verdict::Fail(difference) }
}

/// What differs between two lists, in words; empty when nothing does.
fn differences(found: &[f32], expected: &[f32], tolerance: f32) -> String {
    let wrong = |(_, (a, b)): &(usize, (&f32, &f32))| {
        if tolerance == 0.0 {
            a.to_bits() != b.to_bits()
        } else {
            (*a - *b).is_nan() || (*a - *b).abs() > tolerance
        }
    };
    let all: Vec<_> = found.iter().zip(expected).enumerate().filter(wrong).collect();
    match all.first() {
        None => String::new(),
        Some((index, (a, b))) => {
            format!("{} of {} values, first [{index}]: {a:e}, expected {b:e}", all.len(), found.len())
        }
    }
}

fn output(gpu: &Gpu, kernel: KernelId, case: &Case, buffer: usize) -> Result<Vec<f32>, Error> {
    let mut executor = GpuExecutor::new(gpu.clone());
    let buffers = run_case(&mut executor, kernel, case)?;
    Ok(buffers[buffer].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect())
}

/// Bytes as an embedding of one row, fetched.
fn decoded(gpu: &Gpu, kind: WeightType, bytes: &[u8], cols: usize) -> Result<Vec<f32>, Error> {
    let params = shaders::embedding::Params {
        cols: cols as u32,
        first_row: 0,
        rows: 1,
        weight_offset: 0,
        scale_offset: 0,
    };
    let buffers = shaders::embedding::Bindings {
        weights: CaseBuffer::weights(bytes),
        scales: CaseBuffer::f32(&[1.0; 2]),
        token_ids: CaseBuffer::u32(&[0]),
        h: CaseBuffer::OutF32(vec![-7.0; cols]),
    };
    let overrides = shaders::embedding::Overrides { weight_type: kind as u32 };
    let groups = [(cols as u32).div_ceil(shaders::embedding::THREADS), 1, 1];
    let case = Case::new("self-test", params, overrides, groups, buffers, Tolerance::EXACT);
    output(gpu, shaders::EMBEDDING, &case, 3)
}

/// Every E4M3 code that is a number, bit by bit: subnormals are what drivers get wrong.
fn fp8_decode(gpu: &Gpu) -> Result<String, Error> {
    let codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    let expected: Vec<f32> = codes.iter().map(|code| E4M3[*code as usize]).collect();
    Ok(differences(&decoded(gpu, WeightType::F8E4M3, &codes, codes.len())?, &expected, 0.0))
}

fn bf16_decode(gpu: &Gpu) -> Result<String, Error> {
    let expected: Vec<f32> = [0x0000u32, 0x8000, 0x3f80, 0xbf81, 0x7f7f, 0x0080, 0x4049, 0xc2f7]
        .map(|high| f32::from_bits(high << 16))
        .to_vec();
    let bytes: Vec<u8> =
        expected.iter().flat_map(|v| [(v.to_bits() >> 16) as u8, (v.to_bits() >> 24) as u8]).collect();
    Ok(differences(&decoded(gpu, WeightType::BF16, &bytes, expected.len())?, &expected, 0.0))
}

/// A norm whose workgroup count lies in a buffer: rows beyond it must stay as they were.
fn indirect_dispatch(gpu: &Gpu) -> Result<String, Error> {
    let mut executor = GpuExecutor::new(gpu.clone());
    let mut view = |label: &str, values: &[u32]| -> Result<View, Error> {
        let bytes = (values.len() * 4) as u64;
        let view = View { buffer: executor.allocate(label, bytes)?, offset: 0, bytes };
        executor.write(view, bytemuck::cast_slice(values))?;
        Ok(view)
    };
    let ones = [1.0f32.to_bits(); 16];
    let (x, weight, rows) = (view("x", &ones)?, view("weight", &ones)?, view("rows", &[0; 4])?);
    let (y, groups) = (view("y", &[0; 16])?, view("groups", &[0, 0, 0, 0, 3, 1, 1, 0])?);
    let params = shaders::rms_norm::Params { cols: 4, x_stride: 4, gather: 0, eps: 0.0 };
    let mut recording = Recording::default();
    recording.dispatch(Dispatch::new(
        Features::NONE,
        &params,
        Default::default(),
        shaders::rms_norm::Bindings { x, weight, rows, y },
        Groups::Indirect(groups.slice(16, 16)),
        Label { what: "self-test", layer: None },
    ));
    recording.read(y);
    let bytes = executor.run(&recording)?;
    let found: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    let expected: Vec<f32> = (0..16).map(|i| if i < 12 { 1.0 } else { 0.0 }).collect();
    Ok(differences(&found, &expected, 1e-5))
}

/// A mat-vec of FP8 weights with so many rows per workgroup; buffer 5 is its result.
fn matvec_case(rows_per_group: u32, weights: &[u8], cols: usize, scales: &[f32], x: &[f32]) -> Case {
    let rows = (weights.len() / cols) as u32;
    let segment = Segment { rows, ..Default::default() };
    let (packed, groups) = Segments::pack(&[segment], rows_per_group, None);
    let params = shaders::matvec::Params {
        cols: cols as u32,
        x_stride: cols as u32,
        y_stride: rows,
        ..Default::default()
    };
    let buffers = shaders::matvec::Bindings {
        weights: CaseBuffer::weights(weights),
        scales: CaseBuffer::f32(scales),
        x: CaseBuffer::f32(x),
        expert_ids: CaseBuffer::u32(&[0]),
        slots: CaseBuffer::u32(&[0]),
        y: CaseBuffer::OutF32(vec![0.0; rows as usize]),
    };
    let (params, groups) = (params.with(&packed), [groups, 1, 1]);
    Case::new("self-test", params, Default::default(), groups, buffers, Tolerance::SUM)
}

/// A mat-vec whose lanes share their loads of x, against the host.
fn broadcast(gpu: &Gpu) -> Result<String, Error> {
    let (rows, cols) = (70usize, 272usize);
    let weights = random::e4m3(1, rows * cols);
    let x = random::f32s(2, cols);
    let scales = [0.5f32, 0.25, 2.0];
    let expected: Vec<f32> = weights
        .chunks(cols)
        .map(|row| {
            let products = row.iter().zip(&x).enumerate();
            products.map(|(k, (w, x))| E4M3[*w as usize] * scales[k / 128] * x).sum()
        })
        .collect();
    let case = matvec_case(shaders::matvec::THREADS, &weights, cols, &scales, &x);
    // Sums of 272 products of up to 448: a few ten thousand, in f32.
    Ok(differences(&output(gpu, shaders::MATVEC, &case, 5)?, &expected, 0.5))
}

/// A mat-vec whose lanes hand over their sums, against the same through workgroup memory: the bits must be equal.
fn shuffle(gpu: &Gpu) -> Result<String, Error> {
    let (rows, cols) = (37usize, 2 * 1024 + 272usize);
    let weights = random::e4m3(3, rows * cols);
    let (x, scales) = (random::f32s(4, cols), random::f32s(5, cols.div_ceil(128)));
    let mut case = matvec_case(matvec_lanes::ROWS, &weights, cols, &scales, &x);
    case.constants = shaders::matvec_lanes::Params::constants(Default::default());
    let found = output(gpu, shaders::MATVEC_LANES, &case, 5)?;
    let expected = output(gpu, shaders::MATVEC_LANES, &case.without(Features::SHUFFLE), 5)?;
    Ok(differences(&found, &expected, 0.0))
}
