//! Tests of nodes and of whole runs.

mod node;
mod promises;
mod run;
