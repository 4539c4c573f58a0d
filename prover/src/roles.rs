//! Who is asked for what, and the seed of each question.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What a completion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Problem → proof and self-evaluation.
    Generate,
    /// Problem, proof and evaluations of it → a new proof and self-evaluation.
    Refine,
    /// Problem and proof → evaluation.
    Verify,
    /// Problem, proof and evaluation → is the evaluation right?
    MetaVerify,
    /// Problem and two proofs → which is better?
    Compare,
}

impl Role {
    /// As files and events spell it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Generate => "generate",
            Role::Refine => "refine",
            Role::Verify => "verify",
            Role::MetaVerify => "meta_verify",
            Role::Compare => "compare",
        }
    }

    /// Whether the generator answers, not the verifier.
    pub fn writes(self) -> bool {
        matches!(self, Role::Generate | Role::Refine)
    }
}

/// Which completion of a run: its place in the logical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Index of the problem in the run's list.
    pub problem: u32,
    /// Round, from 0.
    pub round: u32,
    /// Proof within its round; for comparisons the index of the pair.
    pub proof: u32,
    /// What it is for.
    pub role: Role,
    /// Reading of the proof; for meta-verification the reading that is judged.
    pub reading: u32,
}

impl Key {
    /// The seed of this completion: 53 bits, exact in every JSON reader, of
    /// `SHA-256("porism" ‖ run seed ‖ problem's name ‖ role ‖ round ‖ proof ‖ reading)`. The name, not the index: a problem
    /// gives the same proofs alone and in a set.
    pub fn seed(&self, run_seed: u64, problem_idx: &str) -> u64 {
        let mut hash = Sha256::new();
        hash.update(b"porism\0");
        hash.update(run_seed.to_le_bytes());
        hash.update((problem_idx.len() as u64).to_le_bytes());
        hash.update(problem_idx);
        hash.update(self.role.name());
        for number in [self.round, self.proof, self.reading] {
            hash.update(number.to_le_bytes());
        }
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(first) >> 11
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of the parts, each with its length before it.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_completion_has_its_own_seed() {
        let mut seeds = std::collections::HashSet::new();
        for role in [Role::Generate, Role::Refine, Role::Verify, Role::MetaVerify, Role::Compare] {
            for number in 0..64 {
                let key = Key { problem: 0, round: number % 4, proof: number / 4, role, reading: number };
                let seed = key.seed(1, "a");
                assert!(seed < 1 << 53 && seeds.insert(seed));
                assert!(seeds.insert(key.seed(2, "a")) && seeds.insert(key.seed(1, "b")));
                assert_eq!(Key { problem: 7, ..key }.seed(1, "a"), seed);
            }
        }
    }
}
