//! The host twins and cases, one module beside each shader.

pub mod absorb;
pub mod argmax;
pub mod attention_output;
pub mod candidates;
pub mod copy_rows;
pub mod dot;
pub mod embedding;
pub mod experts_combine;
pub mod experts_down;
pub mod group_experts;
pub mod index_scores;
pub mod latent_cache;
pub mod matmul;
pub mod matvec;
pub mod order;
pub mod pages;
pub mod reduce;
pub mod repetition_penalty;
pub mod rms_norm;
pub mod rope;
pub mod route;
pub mod router;
pub mod segments;
pub mod sparse_attention;
pub mod topk;
