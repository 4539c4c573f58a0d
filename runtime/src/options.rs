//! How a model is opened: sizes, who leaves a slot, and how experts are spread.

use porism_loader::ModelConfig;
use porism_shaders::kernels::pages::PAGE;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::model::sizes::Sizes;

/// Tokens of a prefill step, where memory allows.
const CHUNK: usize = 256;
/// Tokens of the smallest prefill step a budget may force.
const SMALLEST_CHUNK: usize = 8;
/// The router's kernels sort at most so many pairs of token and expert in a step.
const MAX_PAIRS: usize = 16384;

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Tokens a sequence may grow to.
    pub context: usize,
    /// Tokens of a prefill step at most; shrinks where memory is short.
    pub chunk: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens cached in all; fewer than `sequences` × `context` where not all grow long. `None`: that product.
    pub cache_tokens: Option<usize>,
    /// Who leaves an adapter whose experts come and go.
    pub policy: Policy,
    /// How experts are spread over the devices.
    pub spread: Spread,
    /// Recorded use of experts, by which they are placed.
    pub heat: Option<Heat>,
    /// Bytes of host memory in which pages of the checkpoint stay where no host is among the devices. `None`: nobody knows,
    /// and plans count on none.
    pub page_cache: Option<u64>,
    /// Whether the use of experts is recorded.
    pub count_experts: bool,
    /// `Some`: the engine is there when all but its routed experts is. Those are read while tokens are computed, and written
    /// between two steps, so many bytes for each device at most; a step waits for the ones that it needs. Tokens are the
    /// same. `None`: all is there when the engine is.
    pub experts_later: Option<u64>,
}

impl EngineOptions {
    /// One sequence of up to `context` tokens.
    pub fn new(context: usize) -> Self {
        EngineOptions {
            context,
            chunk: CHUNK,
            sequences: 1,
            cache_tokens: None,
            policy: Policy::default(),
            spread: Spread::default(),
            heat: None,
            page_cache: None,
            count_experts: false,
            experts_later: None,
        }
    }

    /// How large steps of up to `chunk` tokens, and the caches, are.
    pub(crate) fn sizes(&self, chunk: usize) -> Sizes {
        let per_sequence = self.context.next_multiple_of(PAGE);
        let most = self.sequences * per_sequence;
        let cache_tokens =
            self.cache_tokens.map_or(most, |tokens| tokens.next_multiple_of(PAGE).clamp(per_sequence, most));
        Sizes {
            tokens: chunk as u32,
            sequences: self.sequences as u32,
            context: self.context as u32,
            cache_tokens: cache_tokens as u32,
        }
    }

    /// Tokens of a prefill step worth trying, the largest first.
    ///
    /// # Errors
    /// A context that is empty or beyond the model's.
    pub(crate) fn chunks(&self, config: &ModelConfig) -> Result<Vec<usize>, Error> {
        let limit = config.max_position_embeddings as usize;
        if self.context > limit {
            return Err(Error::ContextBeyondModel { asked: self.context, limit });
        }
        if self.context == 0 || self.sequences == 0 {
            return Err(Error::EmptyPrompt);
        }
        let picks = config.num_experts_per_tok.max(1) as usize;
        let most = self.chunk.max(self.sequences).min(MAX_PAIRS / picks).max(self.sequences);
        let smallest = SMALLEST_CHUNK.max(self.sequences).min(most);
        let mut chunks = vec![most.min(self.context.next_multiple_of(SMALLEST_CHUNK)).max(smallest)];
        while let Some(last) = chunks.last().copied().filter(|last| *last > smallest) {
            chunks.push((last / 2).max(smallest));
        }
        Ok(chunks)
    }
}

/// Who leaves when a slot is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The experts that the plan put there stay; all others share the slots that are left.
    Pinned,
    /// The one that was not used for longest.
    Lru,
    /// The one with the lowest use, where a use counts half as much after [`HALF_LIFE`] more steps.
    #[default]
    Lfru,
}

/// Steps after which a use counts half, under [`Policy::Lfru`].
pub const HALF_LIFE: f64 = 32.0;

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pinned" => Ok(Self::Pinned),
            "lru" => Ok(Self::Lru),
            "lfru" => Ok(Self::Lfru),
            _ => Err(format!("`{text}` is no policy: give `pinned`, `lru` or `lfru`")),
        }
    }
}

/// How experts are spread over devices that keep them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Whichever of the others generates faster, as predicted.
    #[default]
    Best,
    /// A layer's experts stay on its home as far as there is room: nothing has to be carried and the host need not see who
    /// was picked.
    Home,
    /// Each layer's experts are divided among all devices in proportion to their bandwidth: all of them read at once.
    All,
}

impl std::str::FromStr for Spread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "home" => Ok(Self::Home),
            "all" => Ok(Self::All),
            _ => Err(format!("`{text}` is no way to spread experts: give `best`, `home` or `all`")),
        }
    }
}

/// How often each expert was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heat {
    /// Uses by layer and expert: one list per layer, empty for layers without experts.
    pub uses: Vec<Vec<u64>>,
}

impl Heat {
    /// Adds the picks of some tokens.
    pub(crate) fn count(&mut self, layer: u32, experts: &[u32]) {
        for expert in experts {
            self.uses[layer as usize][*expert as usize] += 1;
        }
    }

    /// Whether it belongs to a model of this kind; otherwise what differs.
    ///
    /// # Errors
    /// A sentence that says where the two do not agree.
    pub fn check(&self, config: &ModelConfig) -> Result<(), String> {
        let layers = config.num_hidden_layers as usize;
        if self.uses.len() != layers {
            return Err(format!("it has {} layers, the model has {layers}", self.uses.len()));
        }
        for (layer, uses) in (0u32..).zip(&self.uses) {
            let expected = if config.is_moe(layer) { config.n_routed_experts as usize } else { 0 };
            if uses.len() != expected {
                return Err(format!("layer {layer} has {} experts, the model's has {expected}", uses.len()));
            }
        }
        Ok(())
    }
}
