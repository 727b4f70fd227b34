//! What a simulation tells while it runs. Recorders live outside the state, so that a fork does not copy history.

use crate::sim::Simulation;
use crate::state::TaskState;

/// How a task ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    /// Chunk and index of the task.
    pub chunk: u32,
    /// Index in the chunk.
    pub index: u32,
    /// `Completed` or `Terminated`.
    pub state: TaskState,
    /// Submission, ms since the start.
    pub submitted_ms: i64,
    /// Since when nothing but the scheduler kept it waiting, ms since the start: submission, or the end of its last parent.
    pub ready_ms: i64,
    /// Last placement, ms since the start.
    pub scheduled_ms: Option<i64>,
    /// End, ms since the start.
    pub finished_ms: Option<i64>,
    /// Last host, or `workload::NONE`.
    pub host: u32,
    /// Failures.
    pub failures: u32,
    /// Pauses.
    pub pauses: u32,
    /// Time in the queue, ms.
    pub scheduling_delay_ms: i64,
    /// Time lost to failures, ms.
    pub failure_delay_ms: i64,
    /// Time spent on snapshots, ms.
    pub checkpoint_delay_ms: i64,
    /// Energy attributed to the task, J.
    pub energy_j: f64,
    /// Integral of CPU demand, MHz ms.
    pub demanded_mhz_ms: f64,
    /// Integral of CPU supply, MHz ms.
    pub supplied_mhz_ms: f64,
    /// Integral of GPU supply, MHz ms.
    pub gpu_supplied_mhz_ms: f64,
    /// Time on hosts, ms.
    pub up_ms: i64,
    /// How long it would have run if it had always got what it asked for, ms; known of completed tasks.
    pub ideal_ms: Option<i64>,
    /// Cores asked for.
    pub cpu_count: u32,
}

/// Receives samples and results.
pub trait Observer {
    /// A tick, or the closing sample of a run.
    fn sample(&mut self, simulation: &Simulation, closing: bool);
    /// A task has ended.
    fn task_ended(&mut self, simulation: &Simulation, result: &TaskResult);
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deaf;

impl Observer for Deaf {
    fn sample(&mut self, _: &Simulation, _: bool) {}
    fn task_ended(&mut self, _: &Simulation, _: &TaskResult) {}
}
