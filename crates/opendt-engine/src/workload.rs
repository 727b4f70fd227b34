//! Tasks and their fragments as shared, append-only columns.

use crate::error::EngineError;
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

impl Workload {
    /// Checks that the columns fit together, so that no simulation can run out of them.
    ///
    /// # Errors
    /// Names the first task or column that does not hold.
    pub fn check(&self) -> Result<(), EngineError> {
        let n = self.len();
        let fragments = self.fragment_duration_ms.len();
        for (name, length, expected, optional) in [
            ("ids", self.ids.len(), n, false),
            ("names", self.names.len(), n, true),
            ("duration_ms", self.duration_ms.len(), n, false),
            ("cpu_count", self.cpu_count.len(), n, false),
            ("cpu_capacity_mhz", self.cpu_capacity_mhz.len(), n, false),
            ("memory_mib", self.memory_mib.len(), n, false),
            ("gpu_count", self.gpu_count.len(), n, true),
            ("gpu_capacity_mhz", self.gpu_capacity_mhz.len(), n, true),
            ("gpu_memory_mib", self.gpu_memory_mib.len(), n, true),
            ("deferrable", self.deferrable.len(), n, true),
            ("deadline_ms", self.deadline_ms.len(), n, true),
            ("slowdown", self.slowdown.len(), n, true),
            ("pinned", self.pinned.len(), n, true),
            ("parent_offset", self.parent_offset.len(), n + 1, true),
            ("edge_mib", self.edge_mib.len(), self.parents.len(), true),
            ("fragment_offset", self.fragment_offset.len(), n + 1, false),
            ("fragment_cpu_mhz", self.fragment_cpu_mhz.len(), fragments, false),
            ("fragment_gpu_mhz", self.fragment_gpu_mhz.as_ref().map_or(fragments, Usage::len), fragments, false),
        ] {
            if length != expected && !(optional && length == 0) {
                let found = format!("{length} values");
                return Err(EngineError::invalid(format!("workload column {name}"), found, expected.to_string()));
            }
        }
        let rising = |offset: &[u32], end: usize| {
            offset.windows(2).all(|pair| pair[0] <= pair[1])
                && offset.first().is_none_or(|&first| first == 0)
                && offset.last().is_none_or(|&last| last as usize == end)
        };
        if !rising(&self.fragment_offset, fragments) || !rising(&self.parent_offset, self.parents.len()) {
            let expected = "borders that rise from 0 to the number of values";
            return Err(EngineError::invalid("workload offsets", "other borders", expected));
        }
        if !self.submission_ms.is_sorted() {
            return Err(EngineError::invalid("workload column submission_ms", "unsorted times", "rising times"));
        }
        if self.parents.iter().any(|&parent| parent as usize >= n) {
            return Err(EngineError::invalid("workload column parents", "an index past the end", format!("below {n}")));
        }
        let sound = |usage: &Usage| (0..usage.len()).all(|i| usage.get(i).is_finite() && usage.get(i) >= 0.0);
        if !sound(&self.fragment_cpu_mhz) || !self.fragment_gpu_mhz.as_ref().is_none_or(sound) {
            return Err(EngineError::invalid("workload fragments", "a negative or infinite demand", "at least 0 MHz"));
        }
        if let Some(slowdown) = self.slowdown.iter().find(|s| !s.is_finite() || **s <= 0.0) {
            return Err(EngineError::invalid("workload column slowdown", slowdown.to_string(), "a factor above 0"));
        }
        Ok(())
    }

    /// The tasks at rising `indices`; parents that are left out count as completed.
    pub fn select(&self, indices: &[u32]) -> Workload {
        fn pick<T: Clone>(values: &[T], indices: &[u32]) -> Vec<T> {
            if values.is_empty() { Vec::new() } else { indices.iter().map(|&i| values[i as usize].clone()).collect() }
        }
        let mut fragment_offset = vec![0];
        let mut kept = Vec::new();
        for &task in indices {
            kept.extend(self.fragment_offset[task as usize] as usize..self.fragment_offset[task as usize + 1] as usize);
            fragment_offset.push(kept.len() as u32);
        }
        let usage = |usage: &Usage| match usage {
            Usage::F32(values) => Usage::F32(kept.iter().map(|&i| values[i]).collect()),
            Usage::F64(values) => Usage::F64(kept.iter().map(|&i| values[i]).collect()),
        };
        let (mut parent_offset, mut parents, mut edge_mib) = (Vec::new(), Vec::new(), Vec::new());
        if !self.parent_offset.is_empty() {
            parent_offset.push(0);
            for &task in indices {
                for edge in self.parent_offset[task as usize]..self.parent_offset[task as usize + 1] {
                    if let Ok(parent) = indices.binary_search(&self.parents[edge as usize]) {
                        parents.push(parent as u32);
                        edge_mib.extend(self.edge_mib.get(edge as usize));
                    }
                }
                parent_offset.push(parents.len() as u32);
            }
        }
        Workload {
            ids: match &self.ids {
                TaskIds::Int(values) => TaskIds::Int(pick(values, indices)),
                TaskIds::Text(values) => TaskIds::Text(pick(values, indices)),
            },
            names: pick(&self.names, indices),
            submission_ms: pick(&self.submission_ms, indices),
            duration_ms: pick(&self.duration_ms, indices),
            cpu_count: pick(&self.cpu_count, indices),
            cpu_capacity_mhz: pick(&self.cpu_capacity_mhz, indices),
            memory_mib: pick(&self.memory_mib, indices),
            gpu_count: pick(&self.gpu_count, indices),
            gpu_capacity_mhz: pick(&self.gpu_capacity_mhz, indices),
            gpu_memory_mib: pick(&self.gpu_memory_mib, indices),
            deferrable: pick(&self.deferrable, indices),
            deadline_ms: pick(&self.deadline_ms, indices),
            slowdown: pick(&self.slowdown, indices),
            pinned: pick(&self.pinned, indices),
            parent_offset,
            parents,
            edge_mib,
            fragment_offset,
            fragment_duration_ms: kept.iter().map(|&i| self.fragment_duration_ms[i]).collect(),
            fragment_cpu_mhz: usage(&self.fragment_cpu_mhz),
            fragment_gpu_mhz: self.fragment_gpu_mhz.as_ref().map(usage),
        }
    }
}
