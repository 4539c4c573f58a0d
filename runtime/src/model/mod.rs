//! The model: its weights on a device, and the forward pass over them. Start reading at [`forward`].

pub mod attention;
pub mod forward;
pub mod moe;
pub mod step;
