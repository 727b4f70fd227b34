//! Tasks and their fragments as shared, append-only columns.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Marks an absent index.
pub const NONE: u32 = u32::MAX;

/// Identifiers of tasks, as the source gave them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskIds {
    /// Whole numbers.
    Int(Vec<i64>),
    /// Strings.
    Text(Vec<Box<str>>),
}

impl TaskIds {
    /// Number of identifiers.
    pub fn len(&self) -> usize {
        match self {
            TaskIds::Int(v) => v.len(),
            TaskIds::Text(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The identifier at `index` as text.
    pub fn text(&self, index: usize) -> String {
        match self {
            TaskIds::Int(v) => v[index].to_string(),
            TaskIds::Text(v) => v[index].to_string(),
        }
    }
}

/// Demand of fragments in MHz: single precision where that loses nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Usage {
    /// All values are representable as `f32`.
    F32(Vec<f32>),
    /// At least one is not.
    F64(Vec<f64>),
}

impl Usage {
    /// Chooses the smaller representation that is exact.
    pub fn from_f64(values: Vec<f64>) -> Self {
        if values.iter().all(|&v| f64::from(v as f32) == v) {
            Usage::F32(values.iter().map(|&v| v as f32).collect())
        } else {
            Usage::F64(values)
        }
    }

    /// The value at `index` in MHz.
    #[inline(always)]
    pub fn get(&self, index: usize) -> f64 {
        match self {
            Usage::F32(v) => f64::from(v[index]),
            Usage::F64(v) => v[index],
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Usage::F32(v) => v.len(),
            Usage::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tasks in the order in which the scheduler sees equal submission times, with their fragments.
///
/// All task columns have one entry a task; `fragment_offset` has one more. `parent_offset` and `parents` are a compressed
/// list of the tasks (indices into this chunk) that must complete first; they are empty when no task has parents.
/// Optional columns are empty when no task uses them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Identifiers.
    pub ids: TaskIds,
    /// Names; empty when the source has none.
    pub names: Vec<Box<str>>,
    /// Submission, ms since the epoch (UTC).
    pub submission_ms: Vec<i64>,
    /// Stated duration, ms; used only for time shifting.
    pub duration_ms: Vec<i64>,
    /// Cores asked for; used for admission.
    pub cpu_count: Vec<u32>,
    /// Capacity asked for, MHz; used by the VCpuCapacity filter and weigher.
    pub cpu_capacity_mhz: Vec<f64>,
    /// Memory asked for, MiB.
    pub memory_mib: Vec<i64>,
    /// GPU cores asked for; may be empty.
    pub gpu_count: Vec<u32>,
    /// GPU capacity asked for, MHz; may be empty.
    pub gpu_capacity_mhz: Vec<f64>,
    /// GPU memory asked for, MiB; may be empty.
    pub gpu_memory_mib: Vec<i64>,
    /// Whether the task may be delayed; may be empty.
    pub deferrable: Vec<bool>,
    /// Deadline, ms since the epoch, or -1; may be empty.
    pub deadline_ms: Vec<i64>,
    /// Factor by which the exec format lengthens the work; may be empty (1).
    pub slowdown: Vec<f64>,
    /// Name of the cluster or host the task must run on, or ""; may be empty.
    pub pinned: Vec<Box<str>>,
    /// Borders in `parents`; empty when no task has parents.
    pub parent_offset: Vec<u32>,
    /// Parents as indices into this workload.
    pub parents: Vec<u32>,
    /// Data sent over each edge of `parents`, MiB; may be empty (0).
    pub edge_mib: Vec<f64>,
    /// Borders of each task's fragments.
    pub fragment_offset: Vec<u32>,
    /// Duration of each fragment, ms.
    pub fragment_duration_ms: Vec<u32>,
    /// CPU demand of each fragment, MHz over all cores.
    pub fragment_cpu_mhz: Usage,
    /// GPU demand of each fragment, MHz; `None` when no fragment uses a GPU.
    pub fragment_gpu_mhz: Option<Usage>,
}

impl Workload {
    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.submission_ms.len()
    }

    /// Whether there are no tasks.
    pub fn is_empty(&self) -> bool {
        self.submission_ms.is_empty()
    }

    /// Parents of a task as indices into this workload.
    pub fn parents_of(&self, task: usize) -> &[u32] {
        if self.parent_offset.is_empty() {
            return &[];
        }
        &self.parents[self.parent_offset[task] as usize..self.parent_offset[task + 1] as usize]
    }
}

/// A workload that several simulations share.
pub type SharedWorkload = Arc<Workload>;
