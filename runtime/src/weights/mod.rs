//! From a checkpoint's tensors to a device's buffers: which go into one binding (`place.rs`), how large those will be
//! (`layout.rs`), slots for experts that come and go (`slots.rs`), and how the bytes get there, before the first step
//! (`load.rs`) or between two (`arrivals.rs`).

pub mod arrivals;
pub mod layout;
pub mod load;
pub mod model;
pub mod pieces;
pub mod place;
pub mod slots;

pub use arrivals::Arrivals;
pub use load::LoadProgress;
pub use model::Share;
pub use place::{expert_roles, slot_layout};
pub use slots::{Pool, PoolFacts};
