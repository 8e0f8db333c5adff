//! Comparing strategies and measuring fleets: what happened to each request of a run, and what that amounts to.

mod outcome;

pub use outcome::{Failure, Outcome, Run};
