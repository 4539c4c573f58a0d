//! What can go wrong while running a model, each naming the thing, the two values and the remedy.

use thiserror::Error;

use crate::units::size;

/// What would make a plan possible that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// Let the host compute what fits no adapter.
    AddHost,
    /// A context of so many tokens fits.
    Context(usize),
    /// So many bytes more on the device of this name.
    Memory(String, u64),
    /// Another device.
    AddDevice,
}

/// An error of the runtime.
#[derive(Debug, Error)]
pub enum Error {
    /// No adapter has the index asked for.
    #[error("device {index} does not exist, this machine has {found}")]
    NoSuchDevice {
        /// What was asked.
        index: usize,
        /// What there is, in words.
        found: String,
    },
    /// The adapter cannot be opened.
    #[error("cannot open {device}: {reason}")]
    OpenDevice {
        /// Name of the adapter.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The adapter computes something wrong that every model needs.
    #[error("{device} fails the self-test `{test}`: {reason}")]
    SelfTest {
        /// Name of the adapter.
        device: String,
        /// Which test.
        test: &'static str,
        /// What differed.
        reason: String,
    },
    /// A buffer does not fit.
    #[error("{device} has no memory for `{label}`: {} asked, {limit}", size(*bytes))]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// What the buffer was for.
        label: String,
        /// Its size.
        bytes: u64,
        /// What the device offers.
        limit: String,
    },
    /// The device is gone.
    #[error("{device} was lost: {reason}")]
    DeviceLost {
        /// Name of the device.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The driver refused a command. This is a defect of Porism or of the driver.
    #[error("{device} refused `{label}`: {reason}")]
    Driver {
        /// Name of the device.
        device: String,
        /// What was being done.
        label: String,
        /// What the driver said.
        reason: String,
    },
    /// What is asked for needs more than the budget.
    #[error("{what} needs {}, the budget of {device} is {}", size(*needed), size(*budget))]
    Budget {
        /// Name of the device.
        device: String,
        /// What does not fit.
        what: String,
        /// Bytes it needs.
        needed: u64,
        /// Bytes allowed.
        budget: u64,
    },
    /// No division of the model among the devices works.
    #[error(
        "the model ({} of weights) with a context of {context} tokens does not fit: {} are missing on {device}",
        size(*weights), size(*shortfall)
    )]
    DoesNotFit {
        /// Bytes of the model's weights.
        weights: u64,
        /// Tokens of the context.
        context: usize,
        /// The device where that is missing.
        device: String,
        /// Bytes more that would do there.
        shortfall: u64,
        /// What would help, the best first.
        ways_out: Vec<WayOut>,
    },
    /// More tokens than the context holds.
    #[error("{tokens} tokens do not fit the context of {context}")]
    ContextTooLong {
        /// Tokens wanted.
        tokens: usize,
        /// Tokens the caches hold.
        context: usize,
    },
    /// A context beyond what the model was made for.
    #[error("a context of {asked} tokens, the model was made for max_position_embeddings = {limit}")]
    ContextBeyondModel {
        /// What was asked.
        asked: usize,
        /// What config.json says.
        limit: usize,
    },
    /// A token id that the model does not know.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u64,
        /// Where in the input.
        position: usize,
        /// The number of ids.
        vocab_size: u32,
    },
    /// Nothing to start from.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// Something about the model that this build cannot run.
    #[error("{0}")]
    Unsupported(String),
    /// The forward pass produced values that are not numbers.
    #[error(
        "logits are not finite ({count} counted); the checkpoint or the device is broken, try `porism doctor`"
    )]
    NotFinite {
        /// How many.
        count: u32,
    },
    /// Cancelled from outside.
    #[error("interrupted")]
    Interrupted,
    /// A fault in the checkpoint.
    #[error(transparent)]
    Loader(#[from] porism_loader::Error),
    /// Sampling parameters or logits that cannot be used.
    #[error(transparent)]
    Sample(#[from] crate::sample::SampleError),
}
