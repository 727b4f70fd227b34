//! The reference simulator's five result files, written by one thread each while the simulation runs.
//!
//! The caller fills plain vectors (a batch of some dozens of samples) and hands them over; names and everything else
//! that is fixed for a host or a task is given once, at the start, and referred to by index, so no row costs a string.
//!
//! ```no_run
//! use opendt_formats::output::{HostInfo, OutputFile, OutputOptions, OutputWriter, ServiceBatch};
//!
//! let options = OutputOptions { files: vec![(OutputFile::Service, None)], ..OutputOptions::default() };
//! let mut writer = OutputWriter::create("out/raw-output/0/seed=0".as_ref(), &options)?;
//! let mut batch = ServiceBatch::default();
//! batch.timestamp_ms.push(300_000);
//! // ... the other columns ...
//! writer.service(&mut batch)?; // the batch is empty again
//! writer.finish()?;
//! # Ok::<(), opendt_formats::FormatError>(())
//! ```

mod batch;
mod columns;
mod encode;
mod folder;
mod pages;
mod writer;

use std::sync::Arc;

use opendt_engine::workload::{NONE, TaskIds, Workload};

pub use batch::{
    BATTERY_STATES, BatteryBatch, GpuColumns, HostBatch, PowerSourceBatch, ServiceBatch, TASK_STATES, TaskBatch,
};
pub use writer::OutputWriter;

/// Stands for "not known" (null) in optional columns of whole numbers.
pub const UNKNOWN_MS: i64 = i64::MIN;

/// Stands for "on no host yet" in [`TaskBatch::host`].
pub const NO_HOST: u32 = NONE;

/// One of the result files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputFile {
    /// A row a host and sample.
    Host,
    /// A row a live task and sample.
    Task,
    /// A row a power source and sample.
    PowerSource,
    /// A row a battery and sample.
    Battery,
    /// A row a sample.
    Service,
}

impl OutputFile {
    /// All of them, in the reference's order.
    pub const ALL: [OutputFile; 5] =
        [OutputFile::Host, OutputFile::Task, OutputFile::PowerSource, OutputFile::Battery, OutputFile::Service];

    /// Name in experiment files, also the file's stem.
    pub fn name(self) -> &'static str {
        match self {
            OutputFile::Host => "host",
            OutputFile::Task => "task",
            OutputFile::PowerSource => "powerSource",
            OutputFile::Battery => "battery",
            OutputFile::Service => "service",
        }
    }

    /// The file of this name, ignoring case, spaces and underscores.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = |name: &str| name.replace(['_', ' '], "").to_ascii_lowercase();
        OutputFile::ALL.into_iter().find(|file| plain(file.name()) == plain(name))
    }

    /// Name of the file on disk.
    pub fn file_name(self) -> String {
        format!("{}.parquet", self.name())
    }
}

/// What is fixed for a host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostInfo {
    /// Name.
    pub name: String,
    /// Its cluster's name.
    pub cluster: String,
    /// Cores of all its CPUs.
    pub core_count: u32,
    /// Memory, MiB.
    pub memory_mib: i64,
}

/// A named part of a cluster: power source or battery.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterPart {
    /// Name.
    pub name: String,
    /// Its cluster's name.
    pub cluster: String,
}

/// What is fixed for tasks, a column each.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskTable {
    /// Identifiers; whole numbers become int32 when all fit, else int64.
    pub ids: TaskIds,
    /// Names; may be empty.
    pub names: Vec<Box<str>>,
    /// Memory asked for, MiB.
    pub memory_mib: Vec<i64>,
    /// Cores asked for.
    pub cpu_count: Vec<u32>,
    /// GPU cores asked for; may be empty.
    pub gpu_count: Vec<u32>,
    /// Submission, ms since the start of the simulation.
    pub submission_ms: Vec<i64>,
}

impl TaskTable {
    /// The fixed values of a workload whose simulation starts at `start_ms` (ms since the epoch, as the submissions).
    pub fn of(workload: &Workload, start_ms: i64) -> Self {
        TaskTable {
            ids: workload.ids.clone(),
            names: workload.names.clone(),
            memory_mib: workload.memory_mib.clone(),
            cpu_count: workload.cpu_count.clone(),
            gpu_count: workload.gpu_count.clone(),
            submission_ms: workload.submission_ms.iter().map(|ms| ms - start_ms).collect(),
        }
    }
}

impl Default for TaskTable {
    fn default() -> Self {
        TaskTable {
            ids: TaskIds::Int(Vec::new()),
            names: Vec::new(),
            memory_mib: Vec::new(),
            cpu_count: Vec::new(),
            gpu_count: Vec::new(),
            submission_ms: Vec::new(),
        }
    }
}

/// What to write and what the indices in batches stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputOptions {
    /// Files and, where not all are wanted, their columns (ignoring case, with a space for an underscore). The columns
    /// that identify a row are always written, after the chosen ones.
    pub files: Vec<(OutputFile, Option<Vec<String>>)>,
    /// Absolute time of simulated time 0, ms since the epoch.
    pub start_epoch_ms: i64,
    /// Hosts, by index.
    pub hosts: Vec<HostInfo>,
    /// Tasks, by index.
    pub tasks: Arc<TaskTable>,
    /// Power sources, by index.
    pub power_sources: Vec<ClusterPart>,
    /// Batteries, by index.
    pub batteries: Vec<ClusterPart>,
    /// Most GPUs that a host has: the host file gets nine columns for each.
    pub gpus_per_host: usize,
    /// Rows after which a row group is closed.
    pub row_group_rows: usize,
}

impl Default for OutputOptions {
    fn default() -> Self {
        OutputOptions {
            files: OutputFile::ALL.map(|file| (file, None)).to_vec(),
            start_epoch_ms: 0,
            hosts: Vec::new(),
            tasks: Arc::default(),
            power_sources: Vec::new(),
            batteries: Vec::new(),
            gpus_per_host: 0,
            row_group_rows: 1 << 20,
        }
    }
}
