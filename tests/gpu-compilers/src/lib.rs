//! What the gate of the GPU compilers knows that other tests want to know too.

pub mod variants;
