//! What can be wrong with a checkpoint. Each message names the file, the tensor or key, what was expected and
//! what was found.

use std::path::PathBuf;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A checkpoint that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The argument is neither a directory nor a model in the cache.
    #[error(
        "no model `{name}`: as a directory, {as_directory}; as a name in the Hugging Face cache, {as_name}"
    )]
    NoModel {
        /// What was asked for.
        name: String,
        /// Why it is no directory.
        as_directory: String,
        /// Why it is no name in the cache.
        as_name: String,
    },

    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// A file would be written over.
    #[error("{}: is already there, give an empty directory", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },

    /// Writing was stopped from outside.
    #[error("{}: stopped, the checkpoint is incomplete", file.display())]
    Stopped {
        /// The file that was being written.
        file: PathBuf,
    },

    /// A file that every checkpoint has is not there.
    #[error("{}: expected {expected}, found {found}", file.display())]
    MissingFile {
        /// The file.
        file: PathBuf,
        /// What should be in it.
        expected: String,
        /// That it is not there, and what is.
        found: String,
    },

    /// Something else than the file itself lies in its place.
    #[error("{}: expected {expected}, found {found}; {}", file.display(), found.remedy())]
    StandIn {
        /// The file.
        file: PathBuf,
        /// What should be in it.
        expected: String,
        /// What is there instead.
        found: crate::stand_in::StandIn,
    },

    /// A text file is larger than it may be.
    #[error("{}: expected {expected}, found {found}", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit.
        expected: String,
        /// Its size.
        found: String,
    },

    /// A text file is not the JSON it should be.
    #[error("{}: expected {expected}, found {found}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What should be in it.
        expected: String,
        /// What is in it, or where reading stopped.
        found: String,
    },

    /// A value in a config file that is wrong or not supported.
    #[error("{}: `{key}` is {found}; supported: {expected}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The key, with those of the objects around it.
        key: String,
        /// What is supported.
        expected: String,
        /// What the file says.
        found: String,
    },

    /// A shard that the index names, or that the other shards' names promise, is not there.
    #[error("{}: missing shard: expected {expected}, found no such file", file.display())]
    MissingShard {
        /// The shard.
        file: PathBuf,
        /// What should be in it.
        expected: String,
    },

    /// A shard's header is damaged as a whole.
    #[error("{}: damaged header: expected {expected}, found {found}", file.display())]
    Header {
        /// The shard.
        file: PathBuf,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A shard has fewer bytes than its header says.
    #[error("{}: truncated in `{tensor}`: expected a file of {expected} bytes, found {found}", file.display())]
    Truncated {
        /// The shard.
        file: PathBuf,
        /// The first tensor that is cut off.
        tensor: String,
        /// Bytes by the header.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },

    /// A shard has more bytes than its header says.
    #[error("{}: oversize: expected a file of {expected} bytes, found {found}", file.display())]
    Oversize {
        /// The shard.
        file: PathBuf,
        /// Bytes by the header.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },

    /// A tensor's offsets overlap another's, leave a hole, or run backwards.
    #[error("{}: `{tensor}`: bad offsets: expected {expected}, found {found}", file.display())]
    Offsets {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it should lie.
        expected: String,
        /// Where the header says it lies.
        found: String,
    },

    /// A tensor's offsets do not hold as many bytes as its dtype and shape need.
    #[error("{}: `{tensor}`: expected {expected}, found {found}", file.display())]
    ByteCount {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes by dtype and shape.
        expected: String,
        /// Bytes by offsets.
        found: String,
    },

    /// One tensor twice.
    #[error("{}: `{tensor}`: expected it once, found it {found}", file.display())]
    Duplicate {
        /// The shard or index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where else it is.
        found: String,
    },

    /// The index disagrees with the shards.
    #[error("{}: `{tensor}`: expected it in {expected}, found it in {found}", file.display())]
    Misplaced {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard the index names.
        expected: String,
        /// The shard that has it, or none.
        found: String,
    },

    /// A tensor that the architecture needs is in no shard.
    #[error("{}: missing tensor `{tensor}`: expected {expected}, found {found}", file.display())]
    MissingTensor {
        /// The index, or the only shard.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// Its shape and dtype.
        expected: String,
        /// What is there instead: nothing, or tensors that nobody asked for.
        found: String,
    },

    /// An FP8 weight without its scales.
    #[error("{}: missing scale `{tensor}`: expected {expected}, found none", file.display())]
    MissingScale {
        /// The shard of the weight.
        file: PathBuf,
        /// The scale's name.
        tensor: String,
        /// Its shape and dtype.
        expected: String,
    },

    /// A tensor's dtype does not fit its role.
    #[error("{}: `{tensor}`: wrong dtype: expected {expected}, found {found}", file.display())]
    WrongDtype {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Dtypes its role can have.
        expected: String,
        /// Its dtype.
        found: String,
    },

    /// A tensor's shape does not fit the config.
    #[error("{}: `{tensor}`: wrong shape: expected {expected}, found {found}", file.display())]
    WrongShape {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape by the config.
        expected: String,
        /// Its shape.
        found: String,
    },

    /// A shard that was there when the checkpoint was opened cannot be opened any more.
    #[error(
        "{}: gone while `{tensor}` was to be read: expected {expected}, found no such file; put it back and load again",
        file.display()
    )]
    Vanished {
        /// The shard.
        file: PathBuf,
        /// The tensor that was to be read.
        tensor: String,
        /// What the file was like.
        expected: String,
    },

    /// A shard was written to, or is another file, since the checkpoint was opened.
    #[error(
        "{}: changed while `{tensor}` was read: expected {expected}, found {found}; \
         load again when nothing writes to the checkpoint",
        file.display()
    )]
    Changed {
        /// The shard.
        file: PathBuf,
        /// A tensor that was to be read or had just been read.
        tensor: String,
        /// What the file was like.
        expected: String,
        /// What it is like now.
        found: String,
    },

    /// The system cannot read a part of a shard.
    #[error("{}: `{tensor}` cannot be read: {source}; check the disk and load again", file.display())]
    ReadTensor {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the system says.
        source: std::io::Error,
    },

    /// A weight or scale that is not a number.
    #[error("{}: `{tensor}`: expected numbers, found {found} (--allow-nan lets it through)", file.display())]
    NotANumber {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The code and its row and column.
        found: String,
    },
}
