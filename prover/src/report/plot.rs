//! The pool as a picture.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::ProblemReport;
use super::page::{Writer, html, score_class, summary};

impl Writer {
    /// Mean scores over rounds, with a line from each proof to those made from it.
    pub(super) fn plot(&mut self, problem: &ProblemReport) {
        const WIDTH: f64 = 720.0;
        const TOP: f64 = 20.0;
        const HEIGHT: f64 = 200.0;
        const LEFT: f64 = 46.0;
        let first = problem.pool.iter().map(|proof| proof.round_idx).min().unwrap_or(1);
        let last = problem.pool.iter().map(|proof| proof.round_idx).max().unwrap_or(1);
        let rounds = (last - first).saturating_add(1);
        let column = (WIDTH - LEFT - 10.0) / f64::from(rounds);
        let mut in_round: HashMap<u32, u32> = HashMap::new();
        for proof in &problem.pool {
            *in_round.entry(proof.round_idx).or_default() += 1;
        }
        let mut seen: HashMap<u32, u32> = HashMap::new();
        let mut places: HashMap<u32, (f64, f64)> = HashMap::new();
        for proof in &problem.pool {
            let nth = seen.entry(proof.round_idx).or_default();
            *nth += 1;
            // Side by side within the round, so that equal scores do not cover each other.
            let share = f64::from(*nth) / f64::from(in_round[&proof.round_idx] + 1);
            let x = LEFT + column * (f64::from(proof.round_idx - first) + 0.1 + 0.8 * share);
            let y = proof
                .meanscore
                .map_or(TOP + HEIGHT + 22.0, |mean| TOP + HEIGHT * (1.0 - mean.clamp(0.0, 1.0)));
            places.entry(proof.proof_id).or_insert((x, y));
        }
        let unread = problem.pool.iter().any(|proof| proof.meanscore.is_none());
        let bottom = TOP + HEIGHT + if unread { 34.0 } else { 12.0 };
        html!(
            self,
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"mean score of each proof by round\">",
            bottom + 22.0
        );
        for score in [0.0, 0.5, 1.0] {
            let y = TOP + HEIGHT * (1.0 - score);
            html!(
                self,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y}\" x2=\"{WIDTH}\" y2=\"{y}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{score}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        if unread {
            html!(
                self,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">unread</text>",
                LEFT - 4.0,
                TOP + HEIGHT + 26.0
            );
        }
        // No more labels than there is room for.
        let step = rounds.div_ceil(16).max(1);
        for round in (0..rounds.min(1 << 16)).filter(|round| round % step == 0) {
            let x = LEFT + column * (f64::from(round) + 0.5);
            html!(
                self,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">round {}</text>",
                bottom + 14.0,
                first + round
            );
        }
        let line: Vec<u32> = problem.ancestry().iter().map(|proof| proof.proof_id).collect();
        for proof in &problem.pool {
            for (from, to) in proof
                .dep_proof_ids
                .iter()
                .filter_map(|dep| Some((dep, (places.get(dep)?, places.get(&proof.proof_id)?))))
            {
                let class =
                    if line.contains(from) && line.contains(&proof.proof_id) { "line" } else { "edge" };
                let ((x1, y1), (x2, y2)) = to;
                html!(
                    self,
                    "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
                );
            }
        }
        for proof in &problem.pool {
            let (x, y) = places[&proof.proof_id];
            let class = score_class(proof.meanscore);
            html!(
                self,
                "<g class=\"{class}\"><title>{}</title><circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>",
                summary(proof)
            );
            if Some(proof.proof_id) == problem.outcome.proof_id {
                html!(self, "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"8.5\"/>");
            }
            html!(self, "</g>");
        }
        html!(
            self,
            "</svg>\n<p class=\"meta\">Each dot is a proof, its height the mean score of its readings; lines lead from a proof to \
                     those made from it. The ring marks the chosen one.</p>"
        );
    }
}
