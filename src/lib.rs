//! A load-balancing reverse proxy that makes several Ollama instances look like one.
//!
//! # Where things are
//!
//! From the ground up: a module mostly uses what stands above it.
//!
//! | what | modules |
//! | --- | --- |
//! | the wire: API families, names, errors, what is read of a body | [`wire`], `head`, `header`, `route`, [`demand`] |
//! | measures, limits and judgements, pure | `alarm`, `budget`, `clock`, `descriptors`, `ewma`, `hashed`, `memory`, `overload`, `retries`, `silence`, `sync`, [`health`] |
//! | what is learnt of nodes and models from what they are given and answer, pure | [`knowledge`] |
//! | addresses and connections; a client's body as it comes in, and as it goes to several | `address`, `origin`, `tcp`, `link`, `upload`, `feed` |
//! | the backends: an immutable list, with live parts that outlive it | [`pool`] |
//! | choosing one of several, pure; the line before the fleet, pure | [`balance`], [`admission`] |
//! | all that one configuration decides | [`config`], `state` |
//! | a request on its way; its place in the queue | `urgency`, `queue`, `session`, `reading`, `call`, `error`, `access` |
//! | one exchange with one backend; loads that outlive their client | `upstream`, `relief`, `load_guard` |
//! | its answer, and one that begins early | `reply`, `early` |
//! | what the fleet says in one voice, and how it is asked | `survey`, `lists` |
//! | what changes several backends at once | `fleet` |
//! | which pages may call, which paths there are, how an answer leaves | `cors`, `mount`, `redirect`, `edge` |
//! | the straight way of a request | `proxy` |
//! | listeners, ticks, files, signals | `server`, `admin`, `probe`, `log`, `reload`, `gateway`, [`cli`] |
//! | simulated nodes, which use only the wire | [`mock`] |
//! | simulated fleets in virtual time, before which the real choice is at work | [`sim`] |
//! | what a run comes to, and load for what really runs | [`mod@bench`] |
//!
//! # A request in a straight line
//!
//! All of it happens in the task of the client's connection; only what goes to several backends takes more tasks.
//!
//! 1. `server` hands a request to `Proxy::handle`, which cannot fail: an error becomes an answer.
//! 2. One snapshot (`State`) serves the whole request, so a reload in the middle cannot mix old and new.
//! 3. `Route::of` says what is done with it; `forward` branches on that and nowhere else.
//! 4. `Call::read` reads the body of a route that is routed by its model, and finds what it asks for ([`demand::Demand`]).
//!    Bodies are never written again: a backend gets the client's bytes.
//! 5. `Queue::admit`: the pool says who is eligible, the strategy which of those with room, and a `Lease` counts the request
//!    in. While all are full, the request waits in the one [line](admission::Line) for the first slot that comes free on any.
//! 6. `upstream` sends it over an idle or a new connection, and keeps the head of the answer back until its body begins. If
//!    that does not happen and sending it again is safe, back to 5, never to the same backend, and not with more than a
//!    share of all requests at a time (`retries`).
//!    The same if the backend goes down while the request waits for it and another does well (`relief`).
//! 7. The answer's body becomes a `ReplyBody`, which passes frames on as they come.
//! 8. Whatever ends the request drops that body: the lease is released, the connection kept or closed, the line logged.
//!
//! # What holds everywhere
//!
//! - A lease is the only way to raise an in-flight count, and its drop the only way to lower it.
//! - Dropping a future is the only cancellation. A client that leaves drops its connection's task, that the answer, that the
//!   link to the backend.
//! - No lock is held across an `.await`. Nothing on a request's way reads a file or the environment.
//! - Nobody is told of a reload: tasks read the snapshot again. What is known of a node stays while its name and URL do.
//! - A strategy sees only backends that may be chosen, of very many only as many as it [asks for](balance::Sight), takes the
//!   time as an argument, and knows nothing of HTTP.
//! - A broken answer ends with its family's error record and a cut, never like a whole one.

mod access;
mod address;
mod admin;
pub mod admission;
mod alarm;
pub mod balance;
pub mod bench;
mod budget;
mod call;
pub mod cli;
mod clock;
pub mod config;
mod cors;
pub mod demand;
mod descriptors;
mod early;
mod edge;
mod error;
mod ewma;
mod feed;
mod fleet;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod hashed;
mod head;
mod header;
pub mod health;
pub mod knowledge;
mod link;
mod lists;
mod load_guard;
pub mod log;
mod memory;
pub mod mock;
mod mount;
mod origin;
mod overload;
pub mod pool;
mod probe;
mod proxy;
mod queue;
mod reading;
mod redirect;
mod relief;
mod reload;
mod reply;
mod retries;
mod route;
mod server;
mod session;
mod silence;
pub mod sim;
mod state;
mod survey;
mod sync;
mod tcp;
mod upload;
mod upstream;
mod urgency;
pub mod wire;

pub use gateway::{Gateway, ListenError};
