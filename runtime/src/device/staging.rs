//! What an executor holds besides the buffers it is asked for.

/// With less than this one would upload word by word.
pub(crate) const LEAST_UPLOADS: u64 = 64 << 10;
/// Two timestamps, once where they are written and once where they are read.
pub const TIMESTAMP_BYTES: u64 = 32;

/// Bytes and values that an executor holds besides its buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staging {
    /// Bytes of uploads that may be on their way.
    pub uploads: u64,
    /// Bytes of the buffer in which the reads of a recording come back. Only [`crate::Engine::logits`] reads more at once:
    /// that has a buffer of its own meanwhile.
    pub read_back: u64,
    /// Bytes of timestamps.
    pub timestamps: u64,
    /// f32 of intermediate results, in the host's two pieces of memory for them.
    pub scratch: [u64; 2],
}

impl Staging {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.uploads + self.read_back + self.timestamps + 4 * (self.scratch[0] + self.scratch[1])
    }
}
