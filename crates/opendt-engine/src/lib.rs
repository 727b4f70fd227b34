//! Deterministic, forkable discrete-event simulation kernel of datacenters.
//!
//! # Guarantees
//! * Same topology, options, seed, workload and binary: same results, to the byte.
//! * Time is integer milliseconds; there is no wall clock and no randomness but that of the seed.
//! * `advance` in pieces equals `advance` at once; reading never changes anything.
//! * A copy of a [`Simulation`] is a fork: neither disturbs the other.
#![deny(rustdoc::broken_intra_doc_links)]

pub mod change;
pub mod clusters;
pub mod error;
pub mod failures;
pub mod feed;
mod fragments;
pub mod hosts;
mod ideal;
pub mod java_random;
mod lone;
pub mod memorizing;
mod meters;
pub mod model;
pub mod observe;
mod placement_index;
pub mod power;
pub mod queue;
pub mod rng;
pub mod scheduler;
pub mod series;
mod shares;
pub mod sharing;
pub mod sim;
pub mod snapshot;
pub mod spec;
#[allow(missing_docs, reason = "fields are plain data, described by their names and units")]
pub mod state;
pub mod tasks;
pub mod timers;
pub mod timeshift;
pub mod workload;

pub use change::Change;
pub use error::EngineError;
pub use observe::{Deaf, Observer, TaskResult};
pub use series::{Recorder, Series};
pub use sim::Simulation;
pub use workload::Workload;
