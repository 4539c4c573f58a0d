//! One file per verb. Each returns the exit code.

pub mod bench;
pub mod chat;
pub mod check;
pub mod completions;
pub mod devices;
pub mod doctor;
pub mod logits;
pub mod plan;
pub mod prove;
pub mod report;
pub mod run;
pub mod set;
pub mod show;
pub mod synth;
pub mod tokenize;
