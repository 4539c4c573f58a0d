//! The search: write proofs, read them, refine the best, until one passes or the budget ends.
//!
//! Two halves. The planner (`planner.rs`) is a pure function: from the completions there are, in the logical order (round,
//! proof, reading), it says what is known and which completions are wanted next. The driver (`driver.rs`) hands these out,
//! journals what comes back and plans again. Which completion came first, what was worked on together and how often the
//! program was killed cannot matter, because the plan does not see it. Completions that were wanted before an earlier one
//! decided otherwise are left out of the pool and counted as spent.
//!
//! ```text
//! after the i-th reading, from the smallest number of readings on:
//!   passes  when every counted reading says 1 and there are as many as asked (or enough to be as sure as asked)
//!   fails   when a counted reading says less
//!   stays undecided when more than half as many as asked were dismissed: so much doubt is not talked away
//! ```
//!
//! Where a program can recompute the proofs ([`Recompute`](crate::recompute::Recompute)), one that would pass does so only if
//! the program agrees; and where it finds the statement false, the search ends with the first proof.
//!
//! A proof that is written twice in a round is read once. One that did not pass and is written again in a later round is read
//! again, for an objection may be wrong. Once that is decided it takes the place of the earlier one, whose readings are kept
//! and told.

mod driver;
mod event;
mod planner;
pub(crate) mod results;
mod solution;

pub use driver::{Limits, SearchError, Task, search};
pub use event::Event;
pub use planner::Plan;
