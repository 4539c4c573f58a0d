//! Natural-language proving with a language model: write, verify, meta-verify, refine, until a proof passes or the budget
//! ends; and the report of it.

pub mod confidence;
pub mod markdown;
mod math;
pub mod report;
