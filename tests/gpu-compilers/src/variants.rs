//! The pipelines that a GPU gets: which overrides the forward pass chooses at the shapes of DeepSeek-V3.2.

use porism_shaders::{Features, KERNELS, Kernel};

/// One pipeline.
pub struct Variant {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// `@if` features that are on.
    pub features: Features,
    /// Override constants.
    pub overrides: Vec<(&'static str, u32)>,
    /// What the inner loop does, where the kernel multiplies stored weights.
    pub inner: Option<Inner>,
}

/// What one turn of the inner loop of a thread does, before any unrolling by a compiler.
#[derive(Clone, Copy)]
pub struct Inner {
    /// Weights that are loaded.
    pub weights: u32,
    /// Products that are added up: weights × tokens that share them.
    pub products: u32,
}

impl Variant {
    /// Overrides and features in words, e.g. `LANES=8 EXPERTS=1`; `-` where there are none.
    pub fn name(&self) -> String {
        let features = self.features.names().map(|f| format!("@{f}"));
        let overrides = self.overrides.iter().map(|(name, value)| format!("{name}={value}"));
        let words: Vec<String> = features.chain(overrides).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(" ") }
    }

    /// The linked WGSL.
    pub fn wgsl(&self) -> &'static str {
        self.kernel.variant(self.features).wgsl
    }
}

/// Every pipeline of a GPU, for FP8 and BF16 checkpoints.
pub fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    let mut with = |name: &str,
                    features: Features,
                    overrides: &[(&'static str, u32)],
                    inner: Option<Inner>| {
        let kernel = KERNELS
            .iter()
            .find(|kernel| kernel.name == name)
            .unwrap_or_else(|| panic!("variants.rs names the kernel `{name}`, which is not there any more"));
        let known = |name: &str| kernel.overrides.iter().any(|constant| constant.name == name);
        if let Some((unknown, _)) = overrides.iter().find(|(name, _)| !known(name)) {
            panic!("variants.rs sets `{unknown}`, which `{}` does not have any more", kernel.name);
        }
        all.push(Variant { kernel, features: shown(kernel, features), overrides: overrides.to_vec(), inner });
    };
    // Four rows of 16 columns each; 56 blocks are 7168 columns, 144 are 9 experts of 2048.
    let rows = Some(Inner { weights: 64, products: 64 });
    for features in [GPU, PORTABLE] {
        with("matvec_lanes", features, &[("BLOCKS", 64)], rows);
    }
    with("matvec_lanes", GPU, &[("BLOCKS", 144)], rows);
    with("matvec_lanes", GPU, &[("PAIRED", 1), ("BLOCKS", 64)], rows);
    with("matvec_lanes", GPU, &[("EXPERTS", 1), ("PAIRED", 1), ("BLOCKS", 64)], rows);
    with("matvec_lanes", GPU, &[("EXPERTS", 1), ("PAIRS", 1), ("BLOCKS", 16)], rows);
    for features in [GPU, PORTABLE] {
        with("experts_down_lanes", features, &[("BLOCKS", 144)], rows);
    }
    with("absorb_lanes", PORTABLE, &[("WEIGHT_TYPE", 0)], None);
    with("attention_output_lanes", PORTABLE, &[("WEIGHT_TYPE", 0), ("VECTORS", 128), ("SUMS", 64)], None);
    with("sparse_attention_lanes", PORTABLE, &[], None);
    with("index_scores_lanes", PORTABLE, &[], None);
    let mut add = |name: &str, overrides: &[(&'static str, u32)], inner| with(name, GPU, overrides, inner);
    // The forms with a row per thread: on a GPU for what the others do not take.
    let row = Some(Inner { weights: 16, products: 16 });
    add("matvec", &[], row);
    add("matvec", &[("SWIGLU", 1)], row);
    add("experts_down", &[], row);
    let tile = Some(Inner { weights: 32, products: 256 });
    add("matmul", &[], tile);
    add("matmul", &[("SWIGLU", 1)], tile);
    add("matmul", &[("EXPERTS", 1)], tile);
    add("matmul", &[("EXPERTS", 1), ("SWIGLU", 1)], tile);
    // Attention: the forms with lanes along what they read, and for many tokens or odd widths the others.
    for kind in [0, 1] {
        add("absorb_lanes", &[("WEIGHT_TYPE", kind)], None);
        add("absorb", &[("WEIGHT_TYPE", kind), ("TOKENS", 4), ("THREADS", 128)], None);
        add("attention_output_lanes", &[("WEIGHT_TYPE", kind), ("VECTORS", 128), ("SUMS", 64)], None);
    }
    add("absorb", &[("WEIGHT_TYPE", 1), ("TOKENS", 1), ("THREADS", 128), ("CAREFUL", 1)], None);
    add("attention_output", &[("WEIGHT_TYPE", 0), ("THREADS", 128), ("CAREFUL", 1)], None);
    add("sparse_attention_lanes", &[], None);
    add("sparse_attention", &[("THREADS", 128), ("CAREFUL", 1)], None);
    add("index_scores_lanes", &[], None);
    add("index_scores", &[("CAREFUL", 1)], None);
    add("topk", &[], None);
    add("router", &[("WEIGHT_TYPE", 1), ("TOKENS", 1)], None);
    add("router", &[("WEIGHT_TYPE", 1), ("TOKENS", 4)], None);
    add("router", &[("WEIGHT_TYPE", 3), ("TOKENS", 1)], None);
    add("embedding", &[("WEIGHT_TYPE", 1)], None);
    // The others have one pipeline each.
    let covered: Vec<&str> = all.iter().map(|variant: &Variant| variant.kernel.name).collect();
    for kernel in KERNELS.iter().filter(|kernel| !covered.contains(&kernel.name)) {
        all.push(Variant { kernel, features: shown(kernel, GPU), overrides: vec![], inner: None });
    }
    all
}

/// The features of a GPU that passes every self-test, and of one that passes none.
const GPU: Features = Features::HALF.with(Features::SHUFFLE);
const PORTABLE: Features = Features::NONE;

/// Those of `features` that the kernel knows.
fn shown(kernel: &Kernel, features: Features) -> Features {
    kernel.variant(features).features
}

/// Those of a GPU's features that the kernel knows.
pub fn gpu_features(kernel: &Kernel) -> Features {
    shown(kernel, GPU)
}
