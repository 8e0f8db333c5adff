//! Comparing strategies and measuring fleets: what happened to each request of a run, and what that amounts to.

mod estimate;
mod grid;
mod html;
pub mod live;
mod outcome;
mod ratio;
mod report;
mod series;
mod slo;
mod spread;
mod summary;
mod table;
#[cfg(test)]
mod tests;
pub mod time;

pub use estimate::Estimate;
pub use grid::Style;
pub use outcome::{Failure, Outcome, Run};
pub use ratio::{Quantity, Ratios};
pub use report::{Cell, Kind, Report};
pub use series::{Bucket, Dot, Series};
pub use slo::Slo;
pub use spread::{Spread, jain};
pub use summary::{Errors, Lag, Measure, NodeShare, Summary};
