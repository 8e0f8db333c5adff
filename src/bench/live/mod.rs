//! Load on something that runs: requests are sent when a plan says so, whether or not earlier ones have been answered, and
//! every time counts from when a request was meant to be sent.

mod answer;
mod arrival;
mod drive;
mod exchange;
mod lengths;
mod plan;
mod talk;
mod target;

pub use arrival::Arrival;
pub use drive::{Driven, Options, Progress, drive};
pub use lengths::Lengths;
pub use plan::{Amount, Planned, Sessions, Turn, Workload};
pub use target::{Api, Target};
