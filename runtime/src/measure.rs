//! Measuring a model on a device: the figures of `porism bench`.

use std::time::Instant;

use porism_shaders::kernels::segments::Segment;
use porism_shaders::weights::WeightType;
use serde::Serialize;

use crate::cache::SequenceId;
use crate::device::{Class, DeviceId, Executor, Rates};
use crate::engine::{Engine, Output, Reduced, Work};
use crate::error::Error;
use crate::generate::{Chooser, Request};
use crate::gpu::{self, GpuExecutor};
use crate::host::HostExecutor;
use crate::model::ops::{Form, Ops, Rows};
use crate::recording::{Recording, View};
use crate::sample::SamplingParams;
use crate::weights::pieces::{Piece, Projection};

/// Steps sampled after the timed ones; the engine's context must have room for them.
pub const SAMPLED_STEPS: usize = 4;

/// One combination of sizes, measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchRun {
    /// Tokens prefilled.
    pub prefill: usize,
    /// Tokens decoded per sequence.
    pub decode: usize,
    /// Tokens cached before.
    pub depth: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of the prompt per second, all sequences together.
    pub prefill_tokens_per_second: f64,
    /// Tokens generated per second, all sequences together.
    pub decode_tokens_per_second: f64,
    /// Dispatches of the last layer in a decode step.
    pub dispatches_per_layer: usize,
    /// Dispatches of a decode step in all.
    pub dispatches_per_step: usize,
    /// Recordings handed to the device per decode step, one submit each.
    pub submits_per_step: u64,
    /// Bytes read back per greedy decode step, all sequences together.
    pub readback_bytes_per_step: u64,
    /// Steps sampled at temperature 1 and top-p 0.95 after the timed ones.
    pub sampled_steps: usize,
    /// Bytes read back by one of them, all sequences together.
    pub sampled_readback_bytes_per_step: u64,
    /// Rows of them whose logits had to be read whole, because the candidates did not settle the draw.
    pub full_logits_steps: usize,
    /// Bytes of weights that a token's computation reads.
    pub weight_bytes_per_token: u64,
    /// Weights read per second while decoding one sequence.
    pub weight_gb_per_second: f64,
    /// What the device reads at best, measured in the same run.
    pub device_read_gb_per_second: f64,
    /// Share of a decode step's wall time outside the passes by the device's clock, where it has one; the median.
    pub outside_passes: Option<f64>,
    /// Microseconds of the CPU per dispatch for recording and encoding a decode step, the median.
    pub cpu_microseconds_per_dispatch: f64,
    /// Milliseconds of a decode step, the median.
    pub decode_step_milliseconds: f64,
}

/// Measures one combination. Every kernel has run once before the clock starts.
pub fn run(
    engine: &mut Engine<'_>,
    prefill: usize,
    decode: usize,
    depth: usize,
    batch: usize,
    device_read_gb_per_second: f64,
) -> Result<BenchRun, Error> {
    let vocab_size = engine.config().vocab_size;
    let prompt = |seed: usize, count: usize| -> Vec<u32> {
        (0..count).map(|i| ((seed * 7919 + i * 104_729 + 17) % vocab_size as usize) as u32).collect()
    };
    // Warm-up: pipelines are compiled when they first run. A little prompt and two tokens touch all of decode.
    for length in [prefill.min(engine.chunk()).max(1), 1] {
        let sequence = engine.open_sequence().ok_or(Error::EmptyPrompt)?;
        engine.step(&[Work { sequence, tokens: &prompt(0, length) }], Output::Argmax)?;
        engine.step(&[Work { sequence, tokens: &[1] }], Output::Argmax)?;
        engine.close_sequence(sequence);
    }
    let mut sequences = Vec::new();
    for _ in 0..batch {
        sequences.push(engine.open_sequence().ok_or(Error::EmptyPrompt)?);
    }
    for (index, sequence) in sequences.iter().enumerate() {
        for tokens in prompt(index + 1, depth).chunks(engine.chunk()) {
            engine.step(&[Work { sequence: *sequence, tokens }], Output::Nothing)?;
        }
    }
    let started = Instant::now();
    let mut next = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        let prompt = prompt(index + 100, prefill.max(1));
        let chunks = prompt.chunks(engine.chunk()).count();
        for (number, tokens) in prompt.chunks(engine.chunk()).enumerate() {
            let output = if number + 1 == chunks { Output::Argmax } else { Output::Nothing };
            if let Reduced::Tokens(tokens) = engine.step(&[Work { sequence: *sequence, tokens }], output)? {
                next.push(tokens[0]);
            }
        }
    }
    let prefill_seconds = started.elapsed().as_secs_f64();
    let mut walls = Vec::new();
    let mut outside = Vec::new();
    let mut recorded = Vec::new();
    for step in 0..decode + 1 {
        let step_started = Instant::now();
        let tokens: Vec<[u32; 1]> = next.iter().map(|id| [*id]).collect();
        let work: Vec<Work<'_>> = sequences
            .iter()
            .zip(&tokens)
            .map(|(sequence, tokens)| Work { sequence: *sequence, tokens })
            .collect();
        if let Reduced::Tokens(tokens) = engine.step(&work, Output::Argmax)? {
            next = tokens;
        }
        let wall = step_started.elapsed().as_secs_f64();
        // The first step of a batch may compile a kernel; it is not counted.
        if step > 0 {
            walls.push(wall);
            let facts = engine.facts();
            outside.extend(facts.pass_seconds.map(|pass| (1.0 - pass / wall).max(0.0)));
            recorded.push(facts.record_seconds * 1e6 / facts.dispatches as f64);
        }
    }
    let decode_seconds: f64 = walls.iter().sum();
    let facts = engine.facts();
    let sampled = sample(engine, &sequences, next)?;
    for sequence in sequences {
        engine.close_sequence(sequence);
    }
    let weight_bytes_per_token = engine.weight_bytes_per_token();
    let decode_tokens_per_second = (decode * batch) as f64 / decode_seconds;
    Ok(BenchRun {
        prefill,
        decode,
        depth,
        batch,
        prefill_tokens_per_second: (prefill.max(1) * batch) as f64 / prefill_seconds,
        decode_tokens_per_second,
        dispatches_per_layer: facts.last_layer_dispatches,
        dispatches_per_step: facts.dispatches,
        submits_per_step: facts.submits,
        readback_bytes_per_step: facts.readback_bytes,
        sampled_steps: SAMPLED_STEPS,
        sampled_readback_bytes_per_step: sampled.0,
        full_logits_steps: sampled.1,
        weight_bytes_per_token,
        weight_gb_per_second: weight_bytes_per_token as f64 * decode_tokens_per_second / batch as f64 / 1e9,
        device_read_gb_per_second,
        outside_passes: median(&mut outside),
        cpu_microseconds_per_dispatch: median(&mut recorded).unwrap_or(f64::NAN),
        decode_step_milliseconds: median(&mut walls).unwrap_or(f64::NAN) * 1e3,
    })
}

/// Samples some steps; bytes read back by a step, and rows whose logits were read whole.
fn sample(
    engine: &mut Engine<'_>,
    sequences: &[SequenceId],
    mut next: Vec<u32>,
) -> Result<(u64, usize), Error> {
    let sampling = SamplingParams { top_p: 0.95, ..SamplingParams::default() };
    let request = Request { max_tokens: SAMPLED_STEPS, sampling, seed: 1, stop_ids: vec![] };
    let mut choosers =
        sequences.iter().map(|_| Chooser::new(&request, &[])).collect::<Result<Vec<_>, _>>()?;
    let mut readback = 0;
    for _ in 0..SAMPLED_STEPS {
        let tokens: Vec<[u32; 1]> = next.iter().map(|id| [*id]).collect();
        let work: Vec<Work<'_>> = sequences
            .iter()
            .zip(&tokens)
            .map(|(sequence, tokens)| Work { sequence: *sequence, tokens })
            .collect();
        let rows: Vec<_> = choosers.iter().map(Chooser::row).collect();
        let Reduced::Candidates(candidates) = engine.step(&work, Output::Candidates(&rows))? else {
            unreachable!("asked for candidates")
        };
        readback = engine.facts().readback_bytes;
        next.clear();
        for (row, (chooser, candidates)) in choosers.iter_mut().zip(&candidates).enumerate() {
            next.push(chooser.choose(engine, row, candidates)?);
        }
    }
    Ok((readback, choosers.iter().map(|chooser| chooser.full_logits).sum()))
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Reads a buffer of 64 MiB (the host: 256 MiB) several times and returns the best rate in GB/s.
pub fn read_bandwidth(device: DeviceId) -> Result<f64, Error> {
    match device {
        DeviceId::Host => Ok(host_read_bandwidth()),
        DeviceId::Adapter(index) => {
            let mut executor = GpuExecutor::new(gpu::open(index)?);
            adapter_read_bandwidth(&mut executor)
        }
    }
}

/// What a device reaches, for predictions: its memory, mat-muls over FP8 weights, and what starting a kernel and waiting for
/// it take. What is not measured is as expected of its kind.
///
/// # Errors
/// A device that does not exist or fails.
pub fn rates(device: DeviceId) -> Result<Rates, Error> {
    // 1.0 in E4M3: a matrix that caches hold, so that it tells of computing alone.
    let codes = vec![0x38; MATRIX_ROWS as usize * MATRIX_COLS as usize];
    match device {
        DeviceId::Host => {
            let bandwidth = host_read_bandwidth() * 1e9;
            let nominal = Rates { bandwidth, link: bandwidth, ..Class::Host.rates() };
            matrix_rates(&mut HostExecutor::new(), &codes, (128, 8), nominal)
        }
        DeviceId::Adapter(index) => {
            let gpu = gpu::open(index)?;
            let class = gpu.profile.class();
            let mut executor = GpuExecutor::new(gpu);
            let bandwidth = adapter_read_bandwidth(&mut executor)? * 1e9;
            let nominal = Rates { bandwidth, ..class.rates() };
            // Enough to keep a card busy, and no more than a CPU that plays one has done in a moment.
            let (tokens, kernels) = if class == Class::Software { (32, 8) } else { (512, 64) };
            matrix_rates(&mut executor, &codes, (tokens, kernels), nominal)
        }
    }
}

/// The matrix of [`rates`].
const MATRIX_ROWS: u32 = 2048;
const MATRIX_COLS: u32 = 2048;

/// A matrix with `tokens` tokens, with one, and with next to nothing to compute; `kernels` in a recording, so that one
/// hand-over is shared among them.
fn matrix_rates<'c>(
    executor: &mut dyn Executor<'c>,
    codes: &'c [u8],
    (tokens, kernels): (u32, u32),
    nominal: Rates,
) -> Result<Rates, Error> {
    const FEW_ROWS: u32 = 8;
    /// Rows of a kernel of which every thread has some.
    const SOME_ROWS: u32 = 256;
    let weights = codes.len() as u64;
    let buffer = executor.allocate_weights("rates.weights", weights, vec![(0, codes)])?;
    let weights = View { buffer, offset: 0, bytes: weights };
    if !executor.maps_weights() {
        executor.write(weights, codes)?;
    }
    let mut view = |label: &str, values: u32| -> Result<View, Error> {
        let bytes = u64::from(values) * 4;
        Ok(View { buffer: executor.allocate(label, bytes)?, offset: 0, bytes })
    };
    let scales = view("rates.scales", (MATRIX_ROWS / 128) * (MATRIX_COLS / 128))?;
    let (x, y) = (view("rates.x", tokens * MATRIX_COLS)?, view("rates.y", tokens * MATRIX_ROWS)?);
    let (norm, unused) = (view("rates.norm", MATRIX_COLS)?, view("rates.unused", 64)?);
    // Kernels that multiply the first rows of the matrix, or for none that compute a norm.
    let mut seconds = |kernels: u32, rows: u32, tokens: u32| -> Result<f64, Error> {
        let kind = WeightType::F8E4M3 as u32;
        let segments = vec![Segment { kind, rows, ..Default::default() }];
        let pieces = vec![Piece { weights, scales, segments }];
        let matrix = Projection { pieces, cols: MATRIX_COLS, rows };
        let mut recording = Recording::default();
        let tuning = executor.tuning();
        let mut ops = Ops { recording: &mut recording, tuning, tokens, layer: None, unused };
        for _ in 0..kernels {
            let (rows_of_x, rows_of_y) = (Rows::new(x, MATRIX_COLS), Rows::new(y, MATRIX_ROWS));
            match rows {
                0 => ops.rms_norm("rates", rows_of_x, norm, None, MATRIX_COLS, 1e-6, y, tokens),
                _ => ops.project("rates", &matrix, rows_of_x, rows_of_y, Form::default(), tokens),
            }
        }
        recording.read(y.slice(0, 16));
        best_seconds(executor, &recording)
    };
    let (one, many) = (seconds(1, FEW_ROWS, 1)?, seconds(8 * kernels, FEW_ROWS, 1)?);
    let least = ((many - one) / f64::from(8 * kernels - 1)).max(1e-9);
    let handover = (one - least).max(1e-9);
    // Starting a kernel is what remains of one of some rows without what those take.
    let some = (seconds(8 * kernels, SOME_ROWS, 1)? - handover) / f64::from(8 * kernels);
    let whole = (seconds(kernels, MATRIX_ROWS, 1)? - handover) / f64::from(kernels);
    let row = (whole - some).max(0.0) / f64::from(MATRIX_ROWS - SOME_ROWS);
    let dispatch = (some - row * f64::from(SOME_ROWS)).max(least);
    let each = |all: f64| ((all - handover) / f64::from(kernels) - dispatch).max(1e-9);
    let single = each(seconds(kernels, MATRIX_ROWS, 1)?);
    let all = each(seconds(kernels, MATRIX_ROWS, tokens)?);
    let norms = each(seconds(kernels, 0, tokens)?);
    let size = f64::from(MATRIX_ROWS) * f64::from(MATRIX_COLS);
    let values = f64::from(tokens) * f64::from(MATRIX_COLS) / norms;
    let mut rates = Rates { dispatch, handover, values, ..nominal };
    // all = size · (1 / decode + 2 tokens / compute), and single the same for one token.
    if all > single {
        rates.compute = 2.0 * f64::from(tokens - 1) * size / (all - single);
        let decoding = single / size - 2.0 / rates.compute;
        rates.decode = if decoding > 0.0 { 1.0 / decoding } else { f64::INFINITY };
    }
    Ok(rates)
}

/// The shortest of a few runs of a recording, of which the first compiles its kernels.
fn best_seconds<'c>(executor: &mut dyn Executor<'c>, recording: &Recording) -> Result<f64, Error> {
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let started = Instant::now();
        executor.run(recording)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn host_read_bandwidth() -> f64 {
    use rayon::prelude::*;
    // More than caches hold.
    let words: Vec<u64> = vec![1; (256 << 20) / 8];
    let best = (0..5)
        .map(|_| {
            let started = Instant::now();
            let sum: u64 = words.par_chunks(1 << 17).map(|chunk| chunk.iter().sum::<u64>()).sum();
            assert!(sum == words.len() as u64, "every word is one");
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (words.len() * 8) as f64 / best / 1e9
}

/// A mat-vec over BF16 zeros is what reads most like decoding does: all threads, each weight once. GPUs read two parts in
/// turn, each more than their caches hold, until the hand-over, which is measured and does not count, is little beside it.
fn adapter_read_bandwidth(executor: &mut GpuExecutor) -> Result<f64, Error> {
    const COLS: u32 = 2048;
    const PART: u64 = 256 << 20;
    const LARGE: u64 = 4 << 30;
    let profile = &executor.gpu().profile;
    let limits = &profile.limits;
    let large = !profile.is_software()
        && profile.memory_bytes.is_some_and(|memory| memory >= LARGE)
        && limits.max_storage_buffer_binding_size >= PART
        && limits.max_buffer_size >= 2 * PART;
    let (part, parts, dispatches) = if large { (PART, 2, 8) } else { (64 << 20, 1, 1) };
    let rows = (part / u64::from(COLS) / 2) as u32;
    let tuning = executor.tuning();
    let mut view = |label: &str, bytes: u64| -> Result<View, Error> {
        Ok(View { buffer: executor.allocate(label, bytes)?, offset: 0, bytes })
    };
    let (weights, unused) = (view("bandwidth.weights", part * parts)?, view("bandwidth.unused", 256)?);
    let (x, y) = (view("bandwidth.x", u64::from(COLS) * 4)?, view("bandwidth.y", u64::from(rows) * 4)?);
    let mut seconds = |rows: u32, dispatches: u64| -> Result<f64, Error> {
        let segments = vec![Segment { kind: WeightType::BF16 as u32, rows, ..Default::default() }];
        let mut recording = Recording::default();
        let mut ops = Ops { recording: &mut recording, tuning, tokens: 1, layer: None, unused };
        for number in 0..dispatches {
            let weights = weights.slice(number % parts * part, part);
            let pieces = vec![Piece { weights, scales: unused, segments: segments.clone() }];
            let matrix = Projection { pieces, cols: COLS, rows };
            ops.project(
                "read_bandwidth",
                &matrix,
                Rows::new(x, COLS),
                Rows::new(y, rows),
                Form::default(),
                1,
            );
        }
        recording.read(y.slice(0, 256));
        best_seconds(executor, &recording)
    };
    let handover = seconds(64, 1)?;
    let all = seconds(rows, dispatches)?;
    // On a busy machine the one may have been measured at a worse moment than the other.
    let reading = (all - handover).max(all / 2.0);
    Ok((part * dispatches) as f64 / reading / 1e9)
}
