//! Natural-language proving with a language model: write, verify, meta-verify, refine, until a proof passes or the budget
//! ends. Who answers is behind [`complete::Complete`]; this crate knows no device.
//!
//! Start reading at [`search`]; [`pool`] has the types that it works on.

pub mod check;
pub mod complete;
pub mod confidence;
pub mod domain;
pub mod http;
mod manifest;
pub mod pair;
pub mod parse;
mod place;
pub mod pool;
pub mod problem;
pub mod prompts;
mod python;
pub mod recompute;
pub mod report;
pub mod roles;
pub mod search;
pub mod settings;
pub mod store;
mod under_way;
