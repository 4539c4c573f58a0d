//! What devices are expected to do where nobody has measured them: every figure of the time model that is not computed,
//! with where it is from. No real GPU was measured for any of them.
//!
//! The work is divided by these alone, since they are the same in every run; a measurement only changes predictions.

use porism_shaders::matmul;

/// How fast a device is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Bytes per second that it reads its own memory with.
    pub bandwidth: f64,
    /// Bytes per second that it exchanges with host memory.
    pub link: f64,
    /// Bytes per second that the host reads from disk.
    pub disk: f64,
    /// Floating-point operations per second that its mat-muls reach; a product and its addition are two.
    pub compute: f64,
    /// Weights per second that a mat-mul turns from codes into numbers, each once for all tokens; infinite where that hides
    /// behind reading.
    pub decode: f64,
    /// Values per second that kernels go through which multiply no matrix: norms, activations, sums over experts.
    pub values: f64,
    /// Seconds for starting a kernel.
    pub dispatch: f64,
    /// Seconds for a submit that is waited for and read from, besides what it computes.
    pub handover: f64,
    /// What other kernels reach beside a large mat-mul.
    pub kernels: Kernels,
}

/// What kernels reach beside a large mat-mul with the same number of operations: the shares that measuring one mat-mul does not
/// tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernels {
    /// Mat-vecs and mat-muls of a model, whose matrices are smaller and come from memory.
    pub matrices: f64,
    /// Mat-muls of experts, each for some of the tokens.
    pub experts: f64,
    /// Weights that the mat-vecs of a model decode, beside one large mat-vec, and that mat-muls of several tokens do.
    pub one: f64,
    /// See `one`.
    pub several: f64,
    /// Sums over cached positions in their order, and the projections into the latent space.
    pub attention: f64,
    /// Sums over positions that were selected.
    pub selected: f64,
    /// Either kind of sums for one token of a sequence, beside those for many.
    pub single: f64,
    /// Scores of the indexer.
    pub index: f64,
    /// Weights that the projection into the latent space decodes, beside those of a mat-mul.
    pub absorb: f64,
    /// Values that take as long as the activation of one.
    pub activation: f64,
    /// Values that take as long as comparing one logit.
    pub logit: f64,
}

impl Kernels {
    /// GPUs: no share is known.
    const ADAPTER: Kernels = Kernels {
        matrices: 1.0,
        experts: 1.0,
        one: 1.0,
        several: 1.0,
        attention: 1.0,
        selected: 1.0,
        single: 1.0,
        index: 1.0,
        absorb: 1.0,
        activation: 1.0,
        logit: 1.0,
    };
    /// lavapipe and SwiftShader with the 250 M bench model, prompts of 32 to 512 tokens and 1,000 tokens of depth.
    const SOFTWARE: Kernels = Kernels {
        matrices: 0.82,
        experts: 0.82,
        one: 0.85,
        attention: 0.25,
        selected: 0.25,
        index: 0.5,
        ..Self::ADAPTER
    };
    /// Fitted to a release build with the 250 M bench model on two AVX-512 cores, prompts of 32 to 512 tokens and depths up to 1,000,
    /// beside 235 GFLOP/s in a large mat-mul and 100 G weights/s in a large mat-vec. (Without link-time optimisation attention
    /// takes up to twice as long.)
    const HOST: Kernels = Kernels {
        matrices: 0.85,
        experts: 0.76,
        one: 0.8,
        several: 0.33,
        attention: 0.35,
        selected: 0.3,
        single: 0.25,
        index: 0.8,
        absorb: 0.055,
        activation: 12.0,
        logit: 20.0,
    };
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A card with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A driver that computes on the CPU.
    Software,
    /// An adapter of unknown kind.
    Other,
    /// The CPU side.
    Host,
}

/// The host's memory: two channels of DDR4-3200 have 51 GB/s, of which about four fifths are reached.
const HOST_BANDWIDTH: f64 = 40e9;
/// Between a Radeon RX 7800 XT (624 GB/s) and a GeForce RTX 4080 (717 GB/s) and above most older cards.
const DISCRETE_BANDWIDTH: f64 = 700e9;
/// LPDDR5X-7500 on 128 bits, as in laptops of 2024.
const INTEGRATED_BANDWIDTH: f64 = 120e9;
/// Between the two.
const OTHER_BANDWIDTH: f64 = 300e9;
/// FP8 mat-vecs on lavapipe are about ten times below what the CPU reads, on SwiftShader six to thirty times below that. A
/// figure for both, kept since placements depend on it.
const SOFTWARE_BANDWIDTH: f64 = HOST_BANDWIDTH / 8.0;

/// What is reached of the bandwidth that a vendor states for a server's or a desktop's memory: STREAM and its like come to
/// 75 to 85 % of it.
pub const HOST_EFFICIENCY: f64 = 0.8;
/// The same of an adapter's: what compilers make of the mat-vec kernels comes to 30 to 60 % on GPUs of five vendors. An
/// estimate from their instructions; no real GPU was measured.
pub const ADAPTER_EFFICIENCY: f64 = 0.5;

/// PCIe 4.0 with eight lanes has 15.8 GB/s, of which about three quarters are reached.
pub const LINK: f64 = 12e9;
/// An NVMe drive on PCIe 3.0 with four lanes.
pub const DISK: f64 = 3e9;

/// Operations per byte of bandwidth that mat-muls on adapters reach. A tile has so many tokens and reads its weights anew:
/// an FP8 weight is a byte, a product and an addition for each token of the tile.
const ADAPTER_OPERATIONS_PER_BYTE: f64 = 2.0 * matmul::TOKENS as f64;
/// The same on software adapters: lavapipe reaches 2.4 to 3.4 GFLOP/s on each of two cores.
const SOFTWARE_OPERATIONS_PER_BYTE: f64 = 1.2;
/// The same on the host: two AVX-512 cores reach 235 GFLOP/s in a large mat-mul beside 51 GB/s, 4.6 per byte; rounded up on
/// the assumption that servers have more cores for each byte.
const HOST_OPERATIONS_PER_BYTE: f64 = 6.0;
/// Weights that the host turns into numbers for each byte of bandwidth: those cores 100 G/s beside 51 GB/s.
const HOST_DECODED_PER_BYTE: f64 = 2.0;

/// Values that pass through kernels without a matrix for each byte of bandwidth: each is read and written as f32.
const ADAPTER_VALUES_PER_BYTE: f64 = 1.0 / 8.0;
/// The same on the host: two cores go through 2.4 G/s in a norm.
const HOST_VALUES: f64 = 2e9;

/// What starting a kernel takes. Not measured here: figures published for real GPUs lie between 24 and 70 µs.
const ADAPTER_DISPATCH: f64 = 40e-6;
/// lavapipe: 14 to 52 µs within a pass.
const SOFTWARE_DISPATCH: f64 = 20e-6;
/// Threads of a pool that find work, and those that wait for the slowest: 3 µs measured with little to do, twice that here.
const HOST_DISPATCH: f64 = 6e-6;

/// A submit, the wait for it and the mapping of what was read. An assumption: somewhat more than lavapipe takes.
const ADAPTER_HANDOVER: f64 = 100e-6;
/// lavapipe: 43 to 69 µs for a submit that is waited for, 24 to 27 for the copy and the mapping.
const SOFTWARE_HANDOVER: f64 = 80e-6;
/// A call, and threads that have to be woken: 6 to 11 µs measured, twice that here.
const HOST_HANDOVER: f64 = 20e-6;

impl Class {
    /// What such a device is expected to do.
    pub fn rates(self) -> Rates {
        match self {
            Class::Discrete => adapter(DISCRETE_BANDWIDTH, LINK),
            Class::Other => adapter(OTHER_BANDWIDTH, LINK),
            Class::Integrated => adapter(INTEGRATED_BANDWIDTH, LINK),
            Class::Software => Rates {
                compute: SOFTWARE_BANDWIDTH * SOFTWARE_OPERATIONS_PER_BYTE,
                kernels: Kernels::SOFTWARE,
                dispatch: SOFTWARE_DISPATCH,
                handover: SOFTWARE_HANDOVER,
                // Its memory is the host's.
                ..adapter(SOFTWARE_BANDWIDTH, HOST_BANDWIDTH)
            },
            Class::Host => host(HOST_BANDWIDTH),
        }
    }
}

/// A GPU of which no more is known.
pub(super) fn adapter(bandwidth: f64, link: f64) -> Rates {
    Rates {
        bandwidth,
        link,
        disk: DISK,
        compute: bandwidth * ADAPTER_OPERATIONS_PER_BYTE,
        // GPUs decode while they wait for memory.
        decode: f64::INFINITY,
        values: bandwidth * ADAPTER_VALUES_PER_BYTE,
        dispatch: ADAPTER_DISPATCH,
        handover: ADAPTER_HANDOVER,
        kernels: Kernels::ADAPTER,
    }
}

/// A CPU of which no more is known.
pub(super) fn host(bandwidth: f64) -> Rates {
    Rates {
        bandwidth,
        link: bandwidth,
        disk: DISK,
        compute: bandwidth * HOST_OPERATIONS_PER_BYTE,
        decode: bandwidth * HOST_DECODED_PER_BYTE,
        values: HOST_VALUES,
        dispatch: HOST_DISPATCH,
        handover: HOST_HANDOVER,
        kernels: Kernels::HOST,
    }
}
