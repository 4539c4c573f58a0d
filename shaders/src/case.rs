//! Test cases of kernels: inputs, and how near to the twin an adapter must come.

use crate::{Constants, Features, Interface};

/// How far an adapter may be from the twin: |a − b| ≤ absolute + relative · |b|. Integer outputs must be equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Absolute part, in the unit of the output.
    pub absolute: f32,
    /// Relative part.
    pub relative: f32,
}

impl Tolerance {
    /// Bits must agree.
    pub const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };
    /// One or two roundings per element.
    pub const ELEMENTWISE: Tolerance = Tolerance { absolute: 1e-6, relative: 4e-6 };
    /// Sums of up to some thousand products in f32 whose order may be fused differently.
    pub const SUM: Tolerance = Tolerance { absolute: 2e-5, relative: 2e-5 };
}

/// A buffer of a case.
#[derive(Clone, Debug)]
pub enum CaseBuffer {
    /// Input bytes, whatever their meaning.
    In(Vec<u8>),
    /// Output compared as f32; the initial content is given (kernels may read it).
    OutF32(Vec<f32>),
    /// Output compared as u32, exactly; the initial content is given.
    OutU32(Vec<u32>),
    /// Scratch that is written but not compared.
    Scratch(usize),
}

impl CaseBuffer {
    /// f32 input.
    pub fn f32(values: &[f32]) -> Self {
        CaseBuffer::In(bytemuck::cast_slice(values).to_vec())
    }

    /// u32 input.
    pub fn u32(values: &[u32]) -> Self {
        CaseBuffer::In(bytemuck::cast_slice(values).to_vec())
    }

    /// Bytes padded with zeros to a multiple of 16, as weights are on an adapter.
    pub fn weights(bytes: &[u8]) -> Self {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(16), 0);
        CaseBuffer::In(padded)
    }

    /// The content before the dispatch.
    pub fn initial(&self) -> Vec<u8> {
        match self {
            CaseBuffer::In(bytes) => bytes.clone(),
            CaseBuffer::OutF32(values) => bytemuck::cast_slice(values).to_vec(),
            CaseBuffer::OutU32(values) => bytemuck::cast_slice(values).to_vec(),
            CaseBuffer::Scratch(bytes) => vec![0; *bytes],
        }
    }
}

/// One dispatch of a kernel on known data.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it, e.g. `cols 200, short last block`.
    pub name: String,
    /// Bytes of the kernel's `Params`.
    pub params: Vec<u8>,
    /// Features that it cannot be run with.
    pub without: Features,
    /// Override constants.
    pub constants: Constants,
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// All bindings in order.
    pub buffers: Vec<CaseBuffer>,
    /// What is accepted.
    pub tolerance: Tolerance,
    /// Values computed independently of the twin in f64 for one f32 output: (binding, values, tolerance).
    pub reference: Option<(usize, Vec<f64>, Tolerance)>,
}

impl Case {
    /// A case with everything but the reference.
    pub fn new<P: Interface>(
        name: impl Into<String>,
        params: P,
        overrides: P::Overrides,
        groups: [u32; 3],
        buffers: P::Bindings<CaseBuffer>,
        tolerance: Tolerance,
    ) -> Self {
        let params = bytemuck::bytes_of(&params).to_vec();
        Case {
            name: name.into(),
            params,
            without: Features::NONE,
            constants: P::constants(overrides),
            groups,
            buffers: buffers.into_iter().collect(),
            tolerance,
            reference: None,
        }
    }

    /// The same, run without some features.
    #[must_use]
    pub fn without(self, features: Features) -> Self {
        Case { without: features, ..self }
    }

    /// Adds an independent f64 computation of binding `binding`.
    pub fn with_reference(mut self, binding: usize, values: Vec<f64>, tolerance: Tolerance) -> Self {
        self.reference = Some((binding, values, tolerance));
        self
    }
}

/// Deterministic inputs for cases.
pub mod random {
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    /// A named generator, so that cases stay the same.
    pub fn generator(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// `count` values in [−1, 1).
    pub fn f32s(seed: u64, count: usize) -> Vec<f32> {
        let mut rng = generator(seed);
        (0..count).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// `count` finite E4M3 codes, all of them occurring when `count` is large enough.
    pub fn e4m3(seed: u64, count: usize) -> Vec<u8> {
        let mut rng = generator(seed);
        std::iter::repeat_with(|| rng.next_u32() as u8)
            .filter(|code| code & 0x7f != 0x7f)
            .take(count)
            .collect()
    }

    /// `count` BF16 values in [−1, 1) as little-endian bytes.
    pub fn bf16(seed: u64, count: usize) -> Vec<u8> {
        f32s(seed, count).iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
    }
}
