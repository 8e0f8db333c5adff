//! What changes several backends at once, so that they go on looking like one.
//!
//! | request | goes to | is done when |
//! | --- | --- | --- |
//! | delete, copy, unload | all that hold the model | one has done it and no other failed |
//! | pull | all that are up, or `models.replicas` of them | all have it |
//! | a blob, create | all that are up when the client's first blob comes | all have it |
//! | push, account, web search, cloud models | the pinned backend | it says so |
//!
//! With `models.shared_storage` one backend does it for all. Each backend's part is a task of a set that is dropped with
//! the client's request, so a client that leaves ends them all at once.

mod ask;
mod blob;
mod change;
mod create_set;
mod follow;
mod grow;
mod members;
mod merged;
mod outcome;
mod pin;
mod progress;

pub use blob::blob;
pub use change::change;
pub use create_set::CreateSets;
pub use grow::{create, pull};
pub use merged::Merged;
pub use pin::{explain as explain_pin, is_pinned, lease as lease_pinned};

use crate::reply::Source;
use crate::state::State;
use arc_swap::ArcSwap;
use http::Response;
use std::sync::Arc;

/// An answer on its way to the client.
type Answer = Response<Source>;
/// The state that is current at any time.
pub type Current = Arc<ArcSwap<State>>;
