//! Everything that changes while a simulation runs, in flat arrays addressed by index: a fork is a copy of it.

use crate::queue::HostQueue;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// What the dispatcher does at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// Sample the series.
    Tick,
    /// Submit the tasks that are due.
    Submit,
    /// Run the scheduler.
    Wake,
    /// Hosts fail.
    Fail,
    /// The hosts of failure `n` recover.
    Recover(u32),
}

/// An entry of the dispatcher: events of one time leave in the order in which they were scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Event {
    /// When, ms.
    pub time: i64,
    /// Number of the scheduling.
    pub sequence: u64,
    /// What.
    pub kind: EventKind,
}

/// Whether a host can run tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostStatus {
    /// In service.
    Up,
    /// Failed; its tasks are lost until it recovers.
    Failed,
    /// Taken out of service while tasks still run on it; leaves with the last.
    Draining,
    /// Switched off.
    Removed,
}

/// The moving part of a host, but for what every sample sums, which lies in arrays of its own.
///
/// In this order in memory: what a lone task's next fragment touches comes first, and is one cache line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[repr(C, align(64))]
pub struct Host {
    pub class: u32,
    pub first_slot: u32,
    pub slot_count: u32,
    /// The only task goes from fragment to fragment, and only its demand changes: see `Simulation::stream_on`.
    pub streams: bool,
    /// Waits for a refresh in this instant.
    pub dirty: bool,
    pub status: HostStatus,
    /// Some time is stolen or the GPU works: the meters of that run, too.
    pub meters_all: bool,
    /// Capacity with throttling, MHz.
    pub capacity_mhz: f64,
    /// Factor on the dynamic power.
    pub dynamic_factor: f64,
    pub gpu_power_w: f64,
    /// Share of the CPU in use since the last change.
    pub active_ratio: f64,
    /// Time in use up to the last change, ms of the whole CPU.
    pub active_ms: f64,
    pub ordinal: u32,
    pub last_slot: u32,
    // The second line begins here.
    /// The same of the time stolen.
    pub steal_ratio: f64,
    pub steal_ms: f64,
    pub gpu_demand_mhz: f64,
    pub gpu_usage_mhz: f64,
    pub gpu_active_ms: f64,
    pub gpu_steal_ms: f64,
    /// Frequency relative to the class's.
    pub speed_ratio: f64,
    /// First slot of the round-robin.
    pub rotation: u32,
    /// Next rotation, ms.
    pub rotates_ms: i64,
    pub boot_ms: i64,
    /// Time since which up or down time counts.
    pub status_since_ms: i64,
    pub up_ms: i64,
    pub down_ms: i64,
    /// Limit of power that a capped source leaves, W.
    pub power_limit_w: f64,
}

/// Hosts `start..end`, all of one cluster.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Span {
    pub cluster: u32,
    pub start: u32,
    pub end: u32,
}

/// What the scheduler sees of the hosts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HostViews {
    pub up: Vec<bool>,
    pub core_count: Vec<i32>,
    pub free_cores: Vec<i32>,
    pub memory_mib: Vec<i64>,
    pub free_memory_mib: Vec<i64>,
    pub tasks: Vec<i32>,
    pub gpu_cores: Vec<i32>,
    pub free_gpu_cores: Vec<i32>,
    pub free_gpu_memory_mib: Vec<i64>,
    /// MHz of one core.
    pub core_speed_mhz: Vec<f64>,
    pub capacity_mhz: Vec<f64>,
    pub gpu_core_speed_mhz: Vec<f64>,
}

/// A piece of work outside the shared columns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fragment {
    pub duration_ms: i64,
    pub cpu_mhz: f64,
    pub gpu_mhz: f64,
    /// Whether this time is the price of a snapshot or a transfer, not the task's own work.
    pub overhead: bool,
}

/// A task on a host; in memory what every fragment touches comes first, and is one cache line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[repr(C, align(64))]
pub struct Slot {
    /// Next fragment in the chunk.
    pub cursor: u32,
    pub stop: u32,
    /// End of the present fragment, ms.
    pub deadline_ms: i64,
    /// Number of the setting of the deadline: equal deadlines are met in the order in which they were set.
    pub deadline_sequence: u64,
    /// Since when `remaining_*` holds and the demand has been what it is, ms.
    pub since_ms: i64,
    pub cpu_mhz: f64,
    pub cpu_supply_mhz: f64,
    /// Integrals of demand and supply, MHz ms.
    pub demanded_mhz_ms: f64,
    pub supplied_mhz_ms: f64,
    // The second line begins here.
    pub chunk: u32,
    pub host: u32,
    pub live: u32,
    pub next: u32,
    pub previous: u32,
    /// The first fragment has begun.
    pub started: bool,
    /// The present fragment is overhead.
    pub overhead: bool,
    pub gpu_mhz: f64,
    pub gpu_supply_mhz: f64,
    pub gpu_supplied_mhz_ms: f64,
    /// Work left at `since_ms` under a work-conserving policy, MHz ms.
    pub remaining_cpu: f64,
    pub remaining_gpu: f64,
    // And the third.
    /// Fragments that come before the cursor: transfers, snapshots, remainders.
    pub injected: Vec<Fragment>,
    /// Next snapshot, ms.
    pub snapshot_ms: i64,
    pub snapshot_interval_ms: i64,
    /// Snapshot or start that a failure goes back to, ms.
    pub saved_at_ms: i64,
    /// Energy attributed so far, J.
    pub energy_j: f64,
    /// Host energy at which the task became alone on it, J.
    pub alone_since_j: f64,
}

// A fourth line would make forks slower, and put the first lines of all into a quarter of the cache.
const _: () = assert!(size_of::<Host>() == 192 && size_of::<Slot>() == 192);

/// State of a task that is in the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Submitted, waits for parents.
    Blocked,
    /// In the queue.
    Queued,
    /// On a host.
    Running,
    /// Failed with its host, in the queue again.
    Failed,
    /// Paused, in the queue again.
    Paused,
    /// Done.
    Completed,
    /// Given up.
    Terminated,
}

/// A task that has been submitted and has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Live {
    pub chunk: u32,
    pub index: u32,
    pub state: TaskState,
    pub submitted_ms: i64,
    /// Since when nothing but the scheduler keeps the task waiting: submission, or the end of its last parent.
    pub ready_ms: i64,
    pub scheduled_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    pub slot: u32,
    pub host: u32,
    pub failures: u32,
    pub pauses: u32,
    /// Times that the memorizing scheduler passed the task over.
    pub skipped: u32,
    /// Hosts the task may use, as a range of indices; `(0, u32::MAX)` means all.
    pub hosts: (u32, u32),
    /// Where a restart begins.
    pub saved_cursor: u32,
    pub saved: Vec<Fragment>,
    pub queued_ms: i64,
    pub scheduling_delay_ms: i64,
    pub failure_delay_ms: i64,
    pub checkpoint_delay_ms: i64,
    pub energy_j: f64,
    pub demanded_mhz_ms: f64,
    pub supplied_mhz_ms: f64,
    pub gpu_supplied_mhz_ms: f64,
    /// Fragments of the workload count up to here: other work took the place of the rest.
    pub own_stop: u32,
    /// Duration of the work that was told in other ways, less what was left of the work it replaced, ms.
    pub told_ms: i64,
    /// Data that parents sent: cluster, moment, MiB.
    pub inputs: Vec<(u32, i64, f64)>,
    pub up_ms: i64,
}

/// Progress of one workload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ChunkState {
    /// Next task to submit.
    pub cursor: u32,
    /// Submitted and not ended.
    pub live: u32,
    /// Parents left of each task; empty without dependencies.
    pub parents_left: Vec<u32>,
    /// Live number of each task; empty without dependencies.
    pub live_of: Vec<u32>,
    /// A parent was terminated.
    pub doomed: Vec<bool>,
    /// Inputs that arrived before the task was submitted.
    pub early_inputs: BTreeMap<u32, Vec<(u32, i64, f64)>>,
    /// What is known of each task; empty unless the workload was submitted open.
    pub feeds: Vec<crate::feed::Feed>,
}

/// What a battery is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatteryMode {
    Idle,
    Charging,
    Discharging,
}

/// The moving part of a battery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatteryState {
    pub mode: BatteryMode,
    pub charge_j: f64,
    pub delivered_j: f64,
    pub drawn_j: f64,
    /// Power delivered, W.
    pub output_w: f64,
    pub since_ms: i64,
    /// Full or empty, ms.
    pub deadline_ms: i64,
    /// Values of the running window.
    pub window: VecDeque<f64>,
    pub previous_g_per_kwh: f64,
    /// Decide again in this instant.
    pub decide: bool,
}

/// The moving part of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    /// Present row of the carbon trace.
    pub carbon_row: u32,
    pub intensity_g_per_kwh: f64,
    pub emission_g: f64,
    /// Grid energy up to which `emission_g` counts, J.
    pub emission_mark_j: f64,
    pub carbon_deadline_ms: i64,
    pub battery: Option<BatteryState>,
    /// Energy of hosts that left, J.
    pub retired_j: f64,
}

/// Counts of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub submitted: u32,
    pub pending: u32,
    pub active: u32,
    pub completed: u32,
    pub terminated: u32,
    /// Terminated because a parent was; the reference does not count them.
    pub doomed: u32,
}

/// State of a time-shifting scheduler.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShiftState {
    pub low_for_short: bool,
    pub low_for_long: bool,
    pub past: VecDeque<f64>,
    pub stopper_past: VecDeque<f64>,
}

/// State of the memorizing scheduler.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemorizingState {
    /// Hosts by number of tasks.
    pub buckets: Vec<Vec<u32>>,
    /// Position of each host in its bucket.
    pub position: Vec<u32>,
    /// First bucket looked at.
    pub lowest: usize,
}

/// Failures under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FailureState {
    pub occurrence: u64,
    /// Index of the next recorded failure.
    pub next: usize,
    /// Failures in a row that struck while tasks waited and none ran.
    pub in_vain: u32,
    /// Hosts of each failure that has not ended.
    pub hit: BTreeMap<u32, Vec<u32>>,
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub now: i64,
    pub sequence: u64,
    pub events: BinaryHeap<Reverse<Event>>,
    /// Pending engine invocations, the earliest last.
    pub invocations: Vec<(i64, u64)>,
    /// Number of the last setting of a slot's deadline.
    pub deadline_sequence: u64,
    pub sample_interval_ms: Option<i64>,
    /// Samples come after all changes of their instant.
    pub samples_settled: bool,
    pub wake_pending: bool,
    pub submit_pending_ms: i64,
    /// Work is conserved from here on, whatever the options say: set by a what-if.
    pub conserve_work: bool,
    pub power_w: Vec<f64>,
    pub energy_j: Vec<f64>,
    /// Since when each host's power has been what it is, whole ms; a float, so that samples sum without conversions.
    pub since_ms: Vec<f64>,
    /// What tasks get in total on each host, MHz.
    pub usage_mhz: Vec<f64>,
    /// What the power model sees of each host, MHz.
    pub demand_mhz: Vec<f64>,
    /// Capacity of each host that is in service, else 0, MHz.
    pub in_service_mhz: Vec<f64>,
    /// Runs of hosts that lie together in one cluster.
    pub spans: Vec<Span>,
    /// Hosts in service, down, and with tasks.
    pub hosts_up: u32,
    pub hosts_down: u32,
    pub hosts_busy: u32,
    pub hosts: Vec<Host>,
    pub views: HostViews,
    /// Rebuilt from the times alone when a snapshot is restored.
    #[serde(skip)]
    pub calendar: HostQueue,
    pub dirty: Vec<u32>,
    /// Slots whose first fragment begins in this instant, in order of placement.
    pub starting: Vec<u32>,
    pub slots: Vec<Slot>,
    pub free_slots: Vec<u32>,
    pub live: Vec<Live>,
    pub free_live: Vec<u32>,
    pub queue: VecDeque<u32>,
    pub chunks: Vec<ChunkState>,
    /// Work of open tasks.
    pub pieces: crate::feed::Pieces,
    pub clusters: Vec<ClusterState>,
    pub counts: Counts,
    pub shift: ShiftState,
    pub memorizing: MemorizingState,
    pub failures: FailureState,
    /// Draws so far among equally good hosts.
    pub placement_draws: u64,
    pub ended: bool,
    /// The present call runs to the end of all tasks and closes with a sample.
    pub closing: bool,
    /// Order of equal deadlines, where it can reach a result; owners are slots and, from the top down, clusters.
    pub timers: Option<crate::timers::Timers>,
}
