//! How a search is to be done.

use serde::{Deserialize, Serialize};

use crate::roles::Role;

/// How much is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds at most: the first writes, the others refine.
    pub rounds: u32,
    /// Proofs per round.
    pub proofs: u32,
    /// Readings of a proof, all 1, for it to pass.
    pub verifications: u32,
    /// Readings before a decision.
    pub minimum_readings: u32,
    /// A proof whose readings are all 1 passes earlier, once the lower end of their 95 % Wilson interval is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sure: Option<f64>,
    /// Whether scores below 1 are judged in turn.
    pub meta_verify: bool,
    /// So many of the best proofs are refined.
    pub keep: u32,
    /// Evaluations shown to the one who refines, lowest scores first.
    pub evaluations_to_refine: u32,
    /// Read all proofs of a round before choosing, not only up to the first that passes.
    pub finish_round: bool,
    /// No completion is asked for once those before it took so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_total: Option<u64>,
    /// Tokens of a proof at most, thinking included.
    pub max_tokens_per_proof: u32,
    /// Tokens of a reading at most, thinking included.
    pub max_tokens_per_reading: u32,
    /// Tokens of the writer's prompt and answer together, where an endpoint told or somebody said: as many evaluations are
    /// shown as fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Of those who write.
    pub temperature: f32,
    /// Of those who read.
    pub reading_temperature: f32,
    /// Of all roles.
    pub top_p: f32,
}

impl Settings {
    /// The temperature of a role.
    pub fn temperature(&self, role: Role) -> f32 {
        if role.writes() { self.temperature } else { self.reading_temperature }
    }

    /// The most tokens that an answer of a role may take, thinking included.
    pub fn max_tokens(&self, role: Role) -> u32 {
        if role.writes() { self.max_tokens_per_proof } else { self.max_tokens_per_reading }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rounds: 4,
            proofs: 8,
            verifications: 8,
            minimum_readings: 2,
            sure: None,
            meta_verify: true,
            keep: 4,
            evaluations_to_refine: 8,
            finish_round: false,
            max_tokens_total: None,
            max_tokens_per_proof: 128 * 1024,
            max_tokens_per_reading: 64 * 1024,
            context: None,
            temperature: 1.0,
            reading_temperature: 1.0,
            top_p: 0.95,
        }
    }
}
