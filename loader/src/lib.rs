//! Checkpoints: files to bytes at the right place.
//!
//! [`Checkpoint::open`] reads `config.json`, the index and every shard's header, checks all of it against each other,
//! and maps the shards. From then on [`Checkpoint::tensor`] gives the bytes of any [`Role`] as they lie in the file.
//! Nothing here knows a GPU, and nothing allocates by a number that a file merely claims.

pub mod catalog;
pub mod config;
pub mod disk;
mod error;
mod header;
mod index;
mod locate;
mod mapped;
mod names;
mod shape;
mod source;
mod stand_in;
pub mod stream;
pub mod synth;
mod tensor;

pub use catalog::{Catalogued, TensorSpec, TensorTable};
pub use config::{Family, Indexer, ModelConfig, Quantization, Scoring, TopkMethod, Yarn};
pub use error::{Error, Result};
pub use header::{Entry, parse_header};
pub use index::{Checkpoint, KindBytes, Location, Options, Shard};
pub use locate::{cached_models, hub_cache, repository_of, resolve_model, resolve_model_in};
pub use names::{Kind, LayerRole, Name, Projection, Role};
pub use shape::{Dtype, ScaleDtype, Shape};
pub use source::read_small_file;
pub use stand_in::StandIn;
pub use tensor::{Scale, Tensor, find_nan};
