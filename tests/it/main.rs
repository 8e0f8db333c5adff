//! What users can notice, one file per feature.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod admission; // who waits, in which order, and how long
mod balancing; // who gets which request
mod bench; // load on simulated nodes, and its report
mod bodies; // bodies in every form that Ollama takes
mod cancellation; // what goes on after a client has left, and what does not
mod config; // what may be configured, and how mistakes are told
mod conformance; // the contract with Ollama's clients, statement by statement
mod early; // streams that begin before their backend answers
mod edge; // pages, paths and errors as clients of Ollama expect them
mod failover; // backends that fail, and how a request survives it
mod faults; // everything that can be wrong with a backend: a table, each row run in three fleets
mod fuzz; // what has to hold whatever bytes come, on seeds and what is made of them
mod health; // who is in and who is out
mod hunt; // what attacks have found
mod leaving; // clients that leave, in every way and at every time
mod lifecycle; // starting, reloading, stopping, and nodes that are killed
mod lists; // what the fleet says of itself
mod malformed; // requests that are no HTTP, or that others read differently: every one that is known
mod models; // what changes several nodes at once: pull, create, delete, copy, unload
mod overload; // too little of what the process needs, and how it goes on with less
mod partition; // nodes behind a network that swallows packets
mod patience; // clients and backends that stop, and what is shared out among all
mod poison; // connections that one client makes dirty, and another one uses
mod refusals; // requests that no backend should see
mod relief; // requests that wait for a backend which goes down
mod secrets; // what must not be seen of a request, and what it must not do to a log
mod streaming; // bytes that pass unchanged and at once
mod support; // scripted backends, a gateway on free ports, a client that sees every byte
