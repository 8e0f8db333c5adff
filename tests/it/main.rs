//! What users can notice, one file per feature.

mod config; // what may be configured, and how mistakes are told
mod smoke;
mod support;
