//! What users can notice, one module per feature.

#![cfg(test)]

mod config; // files, flags and the order of both; what is said about mistakes
