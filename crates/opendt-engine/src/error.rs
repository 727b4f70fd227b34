//! What can go wrong in the kernel: one enum, each variant naming what was wrong and what to do.

use thiserror::Error;

/// An error of the kernel. None leaves a simulation half changed.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum EngineError {
    /// The topology, the options or a change has a value that no simulation can use.
    #[error("{place}: {found}; expected {expected}")]
    Invalid {
        /// Where: a path such as `clusters[0].hosts[1].core_count`.
        place: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A workload does not hold together.
    #[error("workload, task {task}: {found}; expected {expected}")]
    Workload {
        /// Identifier of the task.
        task: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A name that the topology does not have.
    #[error("no {kind} named {name:?}; known: {known}")]
    Unknown {
        /// `host`, `host class`, `cluster` or `task`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Some names there are.
        known: String,
    },
    /// A moment that has passed.
    #[error("time {asked_ms} ms lies before the simulation's now ({now_ms} ms); ask for a later one or fork earlier")]
    Past {
        /// The moment asked for, ms.
        asked_ms: i64,
        /// The simulation's time, ms.
        now_ms: i64,
    },
    /// A snapshot that cannot be read.
    #[error("snapshot: {found}; expected {expected}")]
    Snapshot {
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
}

impl EngineError {
    /// An invalid value at a place.
    pub fn invalid(place: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        EngineError::Invalid { place: place.into(), found: found.into(), expected: expected.into() }
    }
}
