//! Speed of the mat-vec and the mat-mul on every adapter, in wall time and in process CPU time.
//!
//! `cargo run --release -p porism-tests --example kernel_speed`

use std::time::Instant;

use porism_runtime::device::{Executor, Shape, Tuning};
use porism_runtime::gpu::{GpuExecutor, open};
use porism_runtime::recording::{Dispatch, Groups, Label, Recording, View};
use porism_shaders::case::random;
use porism_shaders::kernels::matvec_lanes;
use porism_shaders::kernels::segments::{Segment, Segments};
use porism_shaders::{KernelId, MATMUL, MATVEC};
use porism_tests::{every_adapter, short_name};

#[expect(clippy::print_stdout, reason = "printing figures is what this program is for")]
fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let runs = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(7);
    for (index, adapter) in every_adapter().iter().enumerate() {
        let name = short_name(adapter);
        if !name.contains(&only) {
            continue;
        }
        for (kind, what) in [(0, "FP8"), (1, "BF16")] {
            let figures = measure(index, MATVEC, 2048, 8192, 1, kind, runs);
            let bytes = 2048.0 * 8192.0 * if kind == 0 { 1.0 } else { 2.0 };
            println!(
                "{name}: {what} mat-vec K 2048 N 8192: wall {:.2} ms {:.2} GB/s, cpu {:.2} ms {:.2} GB/s per core",
                figures.0 * 1e3,
                bytes / figures.0 / 1e9,
                figures.1 * 1e3,
                bytes / figures.1 / 1e9
            );
        }
        let (wall, cpu) = measure(index, MATMUL, 2048, 2048, 128, 0, runs);
        let flops = 2.0 * 2048.0 * 2048.0 * 128.0;
        println!(
            "{name}: FP8 mat-mul M 128 K 2048 N 2048: wall {:.1} ms {:.2} GFLOP/s, cpu {:.1} ms {:.2} GFLOP/s per core",
            wall * 1e3,
            flops / wall / 1e9,
            cpu * 1e3,
            flops / cpu / 1e9
        );
    }
}

/// Best wall and CPU seconds of one dispatch.
fn measure(
    adapter: usize,
    kernel: KernelId,
    cols: u32,
    rows: u32,
    tokens: u32,
    kind: u32,
    runs: usize,
) -> (f64, f64) {
    let mut executor = GpuExecutor::new(open(adapter).expect("an adapter that opens"));
    let mut view = |label: &str, bytes: &[u8]| {
        let view = View {
            buffer: executor.allocate(label, bytes.len() as u64).expect("memory"),
            offset: 0,
            bytes: bytes.len() as u64,
        };
        executor.write(view, bytes).expect("written");
        view
    };
    let count = (cols * rows) as usize;
    let weights = if kind == 0 { random::e4m3(1, count) } else { random::bf16(1, count) };
    let weights = view("weights", &weights);
    let scales = view("scales", bytemuck::cast_slice(&vec![0.01f32; (cols / 128 * rows / 128) as usize]));
    let x = view("x", bytemuck::cast_slice(&random::f32s(2, (cols * tokens) as usize)));
    let y = view("y", &vec![0; (rows * tokens * 4) as usize]);
    let unused = view("unused", &[0; 64]);
    let Tuning { shape, features, .. } = executor.tuning();
    let segment = Segment { kind, rows, ..Default::default() };
    let label = Label { what: "speed", layer: None };
    let mut recording = Recording::default();
    if kernel == MATVEC {
        let rows_per_group = match shape {
            Shape::Cpu => porism_shaders::matvec::THREADS,
            Shape::Gpu => matvec_lanes::ROWS,
        };
        let (packed, groups) = Segments::pack(&[segment], rows_per_group, None);
        let params =
            porism_shaders::matvec::Params { cols, x_stride: cols, y_stride: rows, ..Default::default() };
        let params = params.with(&packed);
        let (expert_ids, slots) = (unused, unused);
        let groups = Groups::Direct([groups, 1, 1]);
        recording.dispatch(match shape {
            Shape::Cpu => {
                let bound = porism_shaders::matvec::Bindings { weights, scales, x, expert_ids, slots, y };
                Dispatch::new(features, &params, Default::default(), bound, groups, label)
            }
            Shape::Gpu => {
                let blocks = matvec_lanes::blocks_of(cols.div_ceil(128));
                let overrides = porism_shaders::matvec_lanes::Overrides { blocks, ..Default::default() };
                let bound =
                    porism_shaders::matvec_lanes::Bindings { weights, scales, x, expert_ids, slots, y };
                Dispatch::new(features, &params.along_k(), overrides, bound, groups, label)
            }
        });
    } else {
        let (packed, groups) = Segments::pack(&[segment], porism_shaders::matmul::ROWS, None);
        let params = porism_shaders::matmul::Params {
            cols,
            x_stride: cols,
            y_stride: rows,
            tokens,
            ..Default::default()
        };
        let (tiles, pair_order, slots) = (unused, unused, unused);
        let bound = porism_shaders::matmul::Bindings { weights, scales, x, tiles, pair_order, slots, y };
        let groups = Groups::Direct([groups, tokens.div_ceil(porism_shaders::matmul::TOKENS), 1]);
        let params = params.with(&packed);
        recording.dispatch(Dispatch::new(features, &params, Default::default(), bound, groups, label));
    }
    let mut best = (f64::INFINITY, f64::INFINITY);
    for run in 0..=runs {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        executor.run(&recording).expect("runs");
        if run > 0 {
            best = (best.0.min(started.elapsed().as_secs_f64()), best.1.min(cpu_seconds() - cpu));
        }
    }
    best
}

/// User and system seconds of this process, all threads (Linux; elsewhere 0).
fn cpu_seconds() -> f64 {
    // CLOCK_PROCESS_CPUTIME_ID has no std API; schedstat gives nanoseconds per thread.
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}
