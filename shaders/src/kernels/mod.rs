//! The host twins and cases, one module beside each shader.

pub mod absorb;
pub mod attention_output;
pub mod index_scores;
pub mod latent_cache;
pub mod pages;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod sparse_attention;
pub mod topk;
