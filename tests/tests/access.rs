//! What the forward pass asks of a GPU at the shapes of DeepSeek-V3.2, looked at without one: which pipelines, how many threads,
//! and which addresses. `docs/gpu-access.md` is the table; `PORISM_RENEW=1` writes it.
//!
//! The model is recorded on a device on paper, from a checkpoint of its true shapes that takes no room. Of each dispatch one
//! workgroup is interpreted.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use porism_gpu_compilers::variants::variants;
use porism_loader::synth::{self, Content};
use porism_loader::{Checkpoint, Options, catalog};
use porism_runtime::EngineOptions;
use porism_runtime::engine::{Engine, Output, Work};
use porism_runtime::recording::{Dispatch, Groups};
use porism_shaders::{KERNELS, topk, topk_tiles};
use porism_tests::paper::{Reader, Written, paper};
use porism_tests::simt::{Program, Sectors};

/// Positions of a long context.
const LONG: usize = 131_072;
/// How many more sectors than necessary may be touched.
const MOST: f64 = 1.25;
/// Threads that a GPU wants to have in flight.
const THREADS: u64 = 65_536;

/// A pipeline as one step of the model dispatches it.
#[derive(Clone, Debug)]
struct Seen {
    step: &'static str,
    what: &'static str,
    kernel: &'static str,
    variant: String,
    threads: u64,
    operations: u64,
    /// Loads of each binding, for waves of 32 and of 64 lanes.
    loads: Vec<(&'static str, [Sectors; 2])>,
}

/// What a GPU gets, in four steps: tokens of a prompt and generated ones, in a short and in a long context.
fn seen() -> &'static [Seen] {
    static SEEN: OnceLock<Vec<Seen>> = OnceLock::new();
    SEEN.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let model = catalog::find("deepseek-ai/DeepSeek-V3.2").expect("a known model");
        let model = model.with_layers(2).expect("a dense layer and one with experts");
        synth::write(&model, directory.path(), Content::Sparse, &|_| true).expect("a sparse checkpoint");
        let options = Options { allow_nan: true };
        let checkpoint = Checkpoint::open(directory.path(), options).expect("a checkpoint");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let reader: Arc<Mutex<Option<Reader>>> = Arc::default();
        let mut engine =
            Engine::on(vec![paper(reader.clone())], &checkpoint, &EngineOptions::new(LONG + 64), &mut |_| {
                Ok(())
            })
            .expect("there is room on paper");
        let sequence = engine.open_sequence().expect("a sequence");
        let ids = vec![7u32; LONG];
        let step = |engine: &mut Engine<'_>, name: Option<&'static str>, count: usize| {
            *reader.lock().expect("no reader panics") = name.map(|name| {
                let seen = seen.clone();
                let reader: Reader = Box::new(move |dispatch, written| look(name, dispatch, written, &seen));
                reader
            });
            let work = [Work { sequence, tokens: &ids[..count] }];
            engine.step(&work, Output::Argmax).expect("paper takes everything");
        };
        step(&mut engine, None, 256);
        step(&mut engine, Some("decode"), 1);
        while engine.cached(sequence) + 256 + 4 < LONG {
            step(&mut engine, None, 256);
        }
        let left = LONG - engine.cached(sequence) - 4;
        step(&mut engine, Some("prompt, long"), left);
        step(&mut engine, Some("3 tokens, long"), 3);
        step(&mut engine, Some("decode, long"), 1);
        drop(engine);
        let seen = seen.lock().expect("no reader panics");
        seen.clone()
    })
}

/// Interprets a dispatch of layer 1, which has experts, or of none.
fn look(step: &'static str, dispatch: &Dispatch, written: &Written, seen: &Mutex<Vec<Seen>>) {
    let kernel = dispatch.kernel.kernel();
    if dispatch.label.layer == Some(0) {
        return;
    }
    // Experts that do not fit into one binding are in several, and each has a dispatch.
    let again = |seen: &Seen| seen.step == step && seen.what == dispatch.label.what;
    if seen.lock().expect("no reader panics").iter().any(again) {
        return;
    }
    let variant = kernel.variant(dispatch.features);
    let overrides = || kernel.named(&dispatch.constants);
    let params = &dispatch.params[..kernel.params_bytes as usize];
    let program = Program::new(variant.wgsl, overrides(), params);
    let groups = match dispatch.groups {
        Groups::Direct(groups) => groups,
        // As the device would write it: the tiles of 256 tokens with 8 picks each of 256 experts, at least.
        Groups::Indirect(_) => [16, 256, 1],
    };
    let views = dispatch.bindings();
    let contents = |binding: u32, at: u32| {
        let name = kernel.bindings[binding as usize].name;
        let told = written.word(views[binding as usize], at);
        if kernel.name == "topk_tiles" && name == "scores" {
            let offset = u32::from_ne_bytes([params[8], params[9], params[10], params[11]]);
            return scores_and_maxima(at, offset);
        }
        told.filter(|_| !by_device(name)).unwrap_or_else(|| made_up(name, at))
    };
    // The one in the middle.
    let traffic = program.run(groups.map(|count| count / 2), groups, &contents);
    let named = |(binding, sectors): (u32, [Sectors; 2])| (kernel.bindings[binding as usize].name, sectors);
    let words = variant.features.names().map(|feature| format!("@{feature}"));
    let changed = overrides().zip(kernel.overrides).filter(|((_, value), known)| *value != known.default);
    let words = words.chain(changed.map(|((name, value), _)| format!("{name}={value}")));
    let variant = words.collect::<Vec<_>>().join(" ");
    seen.lock().expect("no reader panics").push(Seen {
        step,
        what: dispatch.label.what,
        kernel: kernel.name,
        variant: if variant.is_empty() { "-".into() } else { variant },
        threads: groups.iter().map(|count| u64::from(*count)).product::<u64>() * program.lanes() as u64,
        operations: traffic.operations,
        loads: traffic.loads.into_iter().map(named).collect(),
    });
}

/// Whether the device computes what a buffer of this name holds.
fn by_device(name: &str) -> bool {
    matches!(name, "selected" | "expert_ids" | "tiles" | "pair_order" | "arguments")
}

/// What the device might have computed.
fn made_up(name: &str, at: u32) -> u32 {
    match name {
        // Ascending, with gaps.
        "selected" => at % 2048 * 61 + at % 7,
        "expert_ids" => at * 37 % 256,
        // Expert, first pair, pairs.
        "tiles" => [at / 4 % 256, at / 4 * 8 % 2040, 8, 0][at as usize % 4],
        // Pairs of an expert are of tokens that follow each other at some distance.
        "pair_order" => at * 31 % 2048,
        // Floats in [0.5, 1).
        _ => 0x3f00_0000 | (at.wrapping_mul(0x9e37_79b9) >> 9),
    }
}

/// Scores, and from `offset` on the largest of every 16.
fn scores_and_maxima(at: u32, offset: u32) -> u32 {
    let score = |at: u32| scores(KINDS[0], at);
    let largest = |first: u32| (first..first + 16).map(score).fold(f32::NEG_INFINITY, f32::max);
    if at < offset { score(at) } else { largest((at - offset) * 16) }.to_bits()
}

#[test]
fn a_gpu_is_asked_for_what_it_does_well() {
    let mut wrong = pipelines_that_no_compiler_of_a_gpu_sees();
    wrong.extend(loads_that_waste_sectors());
    wrong.extend(too_few_threads());
    for (kind, most) in KINDS.iter().zip(MOST_OF_ALL) {
        let [all, tiles] = selection(kind);
        if tiles as f64 > most * all as f64 {
            wrong.push(format!("selection, {kind}: {tiles} instructions, {all} by going through all scores"));
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gpu-access.md");
    let now = table();
    if std::env::var_os("PORISM_RENEW").is_some() {
        std::fs::write(&page, now).expect("the page can be written");
    } else if std::fs::read_to_string(&page).unwrap_or_default() != now {
        wrong.push("docs/gpu-access.md is not what is true now: PORISM_RENEW=1 writes it".into());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn pipelines_that_no_compiler_of_a_gpu_sees() -> Vec<String> {
    let compiled: BTreeSet<(&str, String)> = variants()
        .iter()
        .map(|variant| {
            let features = variant.features.names().map(|feature| format!("@{feature}"));
            let overrides = variant.kernel.overrides.iter().filter_map(|known| {
                let set = variant.overrides.iter().find(|(name, _)| *name == known.name);
                let value = set.map_or(known.default, |(_, value)| *value);
                (value != known.default).then(|| format!("{}={value}", known.name))
            });
            let words: Vec<String> = features.chain(overrides).collect();
            (variant.kernel.name, if words.is_empty() { "-".into() } else { words.join(" ") })
        })
        .collect();
    // BLOCKS is a size of workgroup memory: one that is compiled with more of it stands for those with less.
    let without_blocks = |variant: &str| -> (String, u32) {
        let (blocks, others): (Vec<&str>, Vec<&str>) =
            variant.split(' ').partition(|word| word.starts_with("BLOCKS="));
        let blocks = blocks.first().and_then(|word| word.split('=').nth(1)?.parse().ok()).unwrap_or(64);
        (others.join(" "), blocks)
    };
    let covered = |kernel: &str, variant: &str| {
        let (others, blocks) = without_blocks(variant);
        compiled.iter().any(|(name, compiled)| {
            let (same, most) = without_blocks(compiled);
            *name == kernel && same == others && most >= blocks
        })
    };
    let missing: BTreeSet<String> = seen()
        .iter()
        .filter(|seen| !covered(seen.kernel, &seen.variant))
        .map(|seen| format!("tests/gpu-compilers/src/variants.rs lacks {} {}", seen.kernel, seen.variant))
        .collect();
    missing.into_iter().collect()
}

fn loads_that_waste_sectors() -> Vec<String> {
    let mut needed = BTreeSet::new();
    let mut wrong = Vec::new();
    for seen in seen() {
        for (binding, sectors) in &seen.loads {
            if sectors.iter().all(|sectors| sectors.ratio() <= MOST) {
                continue;
            }
            if EXCEPTIONS.iter().any(|(kernel, name, _)| (*kernel, *name) == (seen.kernel, *binding)) {
                needed.insert((seen.kernel, *binding));
                continue;
            }
            let [of_32, of_64] = sectors.map(Sectors::ratio);
            wrong.push(format!(
                "{}: {} {} touches {of_32:.2} times the sectors of `{binding}` by 32 lanes, {of_64:.2} by 64",
                seen.step, seen.kernel, seen.variant
            ));
        }
    }
    let idle = EXCEPTIONS.iter().filter(|(kernel, binding, _)| !needed.contains(&(*kernel, *binding)));
    wrong.extend(
        idle.map(|(kernel, binding, _)| format!("`{binding}` of {kernel} is an exception for nothing")),
    );
    wrong
}

/// Kernel, binding, and why it may touch more than it needs.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "matmul",
        "weights",
        "a thread has a row: the other half of a sector is the next turn's, and 128 rows stay in the cache",
    ),
    ("matvec_lanes", "weights", "BF16: the other half of a sector is the next turn's"),
    ("absorb", "queries", "a value of each token at a time, the next turn has the one beside it"),
    ("router", "h", "a value of each four at a time, the next turn has the one beside it"),
    ("router", "norms", "a value of each four at a time, the next turn has the one beside it"),
    ("group_experts", "expert_ids", "a lane has a stretch of its own, so that the order is kept"),
    ("topk", "scores", "a lane has a stretch of its own in the last pass, so that the order is kept"),
    ("topk_tiles", "scores", "scores that reach the bound lie anywhere"),
];

fn too_few_threads() -> Vec<String> {
    let few = seen().iter().filter(|seen| seen.step == "decode, long" && seen.threads < THREADS);
    few.filter(|seen| !SMALL.iter().any(|(what, _)| *what == seen.what))
        .map(|seen| format!("decode: {} has {} threads, fewer than {THREADS}", seen.what, seen.threads))
        .collect()
}

/// What has fewer threads, and why.
const SMALL: &[(&str, &str)] = &[
    ("embed_tokens", "one row of 7,168 values"),
    ("input_layernorm", "a norm"),
    ("norm", "a norm"),
    ("latent_cache", "norms of one token"),
    ("attention_input", "2,304 rows: 576 workgroups of four"),
    ("router", "256 experts, and each workgroup normalises the token anew"),
    ("route", "one token"),
    ("index_topk", "one token"),
    ("experts_combine", "7,168 values; only where a layer's experts do not fit into one binding"),
    ("argmax", "one row"),
];

/// The most that a selection by tiles may take of what going through all scores takes, for each of [`KINDS`]: where what is
/// selected lies close together, its tiles hold more scores than can be listed.
const MOST_OF_ALL: [f64; 3] = [0.25, 1.1, 1.1];

/// Scores as they may be: different everywhere, alike in neighbours, or large in clusters.
fn scores(kind: &str, at: u32) -> f32 {
    let noise =
        f32::from_bits(0x3f80_0000 | (at.wrapping_mul(0x9e37_79b9) ^ at.wrapping_mul(0x85eb_ca6b) >> 7) >> 9)
            - 1.0;
    match kind {
        "different everywhere" => noise,
        "alike in neighbours" => (at as f32 * 1e-3).sin() + 1e-3 * noise,
        _ => noise + if at / 64 % 40 == 7 { 1.0 } else { 0.0 },
    }
}

const KINDS: [&str; 3] = ["different everywhere", "alike in neighbours", "large in clusters"];

/// Instructions of the selection of 2048 of 131,072 scores, by the kernel that goes through all and by the one of tiles.
fn selection(kind: &str) -> [u64; 2] {
    let length = LONG as u32;
    let positions = length - 1;
    let run = |name: &str, params: &[u8]| {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name).expect("a kernel");
        let program = Program::new(kernel.variants[0].wgsl, std::iter::empty(), params);
        let contents = |binding: u32, at: u32| match kernel.bindings[binding as usize].name {
            "lengths" => positions,
            _ if at < length => scores(kind, at).to_bits(),
            // The largest of 16.
            _ => {
                let first = (at - length) * 16;
                let tile = (first..first + 16).map(|at| scores(kind, at));
                tile.fold(f32::NEG_INFINITY, f32::max).to_bits()
            }
        };
        program.run([0; 3], [1; 3], &contents).operations
    };
    let all = topk::Params { stride: length, k: 2048, length: 0, fixed_length: 0 };
    let tiles =
        topk_tiles::Params { stride: length, k: 2048, maxima_offset: length, maxima_stride: length / 16 };
    [run("topk", bytemuck::bytes_of(&all)), run("topk_tiles", bytemuck::bytes_of(&tiles))]
}

/// What the page says before its tables.
const ABOUT: &str = "# What a GPU is asked for

Written by `tests/tests/access.rs` (`PORISM_RENEW=1` writes it, otherwise the test compares): a layer with experts and
both ends of DeepSeek-V3.2, recorded at their true shapes on a device on paper, in a short context (257 tokens) and in a long one
(131,072). The workgroup in the middle of each dispatch is interpreted, all lanes in step.

Threads are those of the whole dispatch. Instructions are those that the workgroup executes one after the other: a load or a store is one, arithmetic one for each component. What follows each binding is how many sectors of 32 bytes a
wave of 32 lanes, then one of 64, touches against the least in which the words that it asks for could lie; loads between two
barriers or two turns of a loop are one request. The test fails above 1.25, but for what it lists with a reason.
";

fn table() -> String {
    let mut page = String::from(ABOUT);
    page.push_str("\n## Selecting 2,048 of 131,072 scores\n\n| scores | topk, instructions | topk_tiles | ratio |\n|---|--:|--:|--:|\n");
    for kind in KINDS {
        let [all, tiles] = selection(kind);
        let _ = writeln!(page, "| {kind} | {all} | {tiles} | {:.3} |", tiles as f64 / all as f64);
    }
    let mut step = "";
    for seen in seen() {
        if step != seen.step {
            step = seen.step;
            let _ = write!(
                page,
                "\n## {step}\n\n| what | kernel | variant | threads | instructions | sectors / least |\n|---|---|---|--:|--:|---|\n"
            );
        }
        let each = seen
            .loads
            .iter()
            .map(|(binding, [of_32, of_64])| format!("{binding} {:.2} {:.2}", of_32.ratio(), of_64.ratio()));
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            seen.what,
            seen.kernel,
            seen.variant,
            seen.threads,
            seen.operations,
            each.collect::<Vec<_>>().join(", ")
        );
    }
    page
}
