//! What placement looks at, one number a host: room for cores, room for memory, weight.
//!
//! The usual policies ask of a host only what it has left and weigh it by one number that does not depend on the task. Both
//! are kept as arrays that change with each placement, so that choosing is one pass over three arrays. Other policies are
//! answered by the general way in `scheduler`; where both can answer, they agree (checked in debug builds).

use crate::sim::Simulation;
use crate::spec::{Allocation, Filter, Weigher};
use crate::state::HostViews;
use std::ops::Range;

/// Smallest positive double: where the reference's running maximum starts.
pub(crate) const SMALLEST_POSITIVE: f64 = 4.9e-324;

/// Derived from the hosts' views; rebuilt when it is asked after a fork.
#[derive(Debug, Default)]
pub(crate) struct PlacementIndex {
    built: bool,
    /// The policy is one that the arrays can answer.
    usable: bool,
    multiplier: f64,
    /// A task fits when its cores and its memory are not above these.
    cpu_room: Vec<f64>,
    memory_room_mib: Vec<f64>,
    weight: Vec<f64>,
    /// No task of at least so many cores and so much memory fits anywhere, until something changes.
    too_much: Option<(f64, f64)>,
}

impl PlacementIndex {
    /// The best host of a range for a task, as in the reference: weights scaled to [0, 1] over the hosts that fit, ties to
    /// the first.
    fn best(&self, cores: f64, memory_mib: f64, hosts: Range<usize>) -> Option<usize> {
        let first = hosts.start;
        let cpu_room = &self.cpu_room[hosts.clone()];
        let memory_room = &self.memory_room_mib[hosts.clone()];
        let weight = &self.weight[hosts];
        let fits = |cpu: f64, memory: f64| (cores <= cpu) & (memory_mib <= memory);
        // In lanes, which the compiler turns into vectors; minimum and maximum do not depend on the order.
        let (mut low, mut high) = ([f64::INFINITY; 4], [f64::NEG_INFINITY; 4]);
        let mut cpus = cpu_room.chunks_exact(4);
        let mut memories = memory_room.chunks_exact(4);
        let mut weights = weight.chunks_exact(4);
        for ((cpu, memory), weight) in cpus.by_ref().zip(memories.by_ref()).zip(weights.by_ref()) {
            for lane in 0..4 {
                let fits = fits(cpu[lane], memory[lane]);
                let (least, most) =
                    if fits { (weight[lane], weight[lane]) } else { (f64::INFINITY, f64::NEG_INFINITY) };
                low[lane] = if least < low[lane] { least } else { low[lane] };
                high[lane] = if most > high[lane] { most } else { high[lane] };
            }
        }
        let rest = cpus.remainder().iter().zip(memories.remainder()).zip(weights.remainder());
        for ((&cpu, &memory), &weight) in rest {
            if fits(cpu, memory) {
                low[0] = low[0].min(weight);
                high[0] = high[0].max(weight);
            }
        }
        let low = low.into_iter().fold(f64::INFINITY, f64::min);
        let high = high.into_iter().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return None;
        }
        // Where all weigh the same, any factor gives all the same.
        let factor = if high == low { 0.0 } else { self.multiplier / (high.max(SMALLEST_POSITIVE) - low) };
        // Weights that differ may scale to the same value, so the first that scales to the top is sought.
        let top = (factor * (high - low)).max(factor * 0.0);
        let hosts = cpu_room.iter().zip(memory_room).zip(weight);
        hosts
            .into_iter()
            .position(|((&cpu, &memory), &weight)| fits(cpu, memory) && factor * (weight - low) >= top)
            .map(|position| first + position)
    }
}

impl Simulation {
    /// The answer of the index: `None` where the policy or the task needs the general way, else the best host, if any.
    pub(crate) fn ask_index(&mut self, id: u32) -> Option<Option<usize>> {
        if !self.scratch.index.built {
            self.build_index();
        }
        let live = &self.s.live[id as usize];
        let (data, task) = (&self.chunks[live.chunk as usize].data, live.index as usize);
        let needs_gpu = data.gpu_count.get(task).is_some_and(|&count| count > 0)
            || data.gpu_memory_mib.get(task).is_some_and(|&mib| mib != 0);
        let index = &mut self.scratch.index;
        if !index.usable || needs_gpu {
            return None;
        }
        let (cores, memory_mib) = (f64::from(data.cpu_count[task] as i32), data.memory_mib[task] as f64);
        if index.too_much.is_some_and(|(most, mib)| cores >= most && memory_mib >= mib) {
            return Some(None);
        }
        let end = (live.hosts.1 as usize).min(self.s.hosts.len());
        let hosts = (live.hosts.0 as usize).min(end)..end;
        let whole = hosts.len() == self.s.hosts.len();
        let best = index.best(cores, memory_mib, hosts);
        if best.is_none() && whole {
            index.too_much = Some((cores, memory_mib));
        }
        Some(best)
    }

    /// A host's views have changed; `less` when all it did was to take a task.
    pub(crate) fn reindex(&mut self, host: usize, less: bool) {
        let index = &mut self.scratch.index;
        if !less {
            index.too_much = None;
        }
        if !index.built || !index.usable {
            return;
        }
        if let Allocation::Filter { filters, weighers, .. } = &self.model.options.allocation {
            index.cpu_room[host] = cpu_room(&self.s.views, filters, host);
            index.memory_room_mib[host] = memory_room_mib(&self.s.views, filters, host);
            index.weight[host] = weighers.first().map_or(0.0, |weigher| weight(&self.s.views, weigher, host));
        }
    }

    /// The policy or the list of hosts has changed.
    pub(crate) fn forget_index(&mut self) {
        self.scratch.index.built = false;
    }

    fn build_index(&mut self) {
        let mut index = PlacementIndex { built: true, ..PlacementIndex::default() };
        if let Allocation::Filter { filters, weighers, subset_size: 1 } = &self.model.options.allocation {
            let simple_filter = |filter: &Filter| !matches!(filter, Filter::VCpuCapacity);
            let simple_weigher = |weigher: &Weigher| !matches!(weigher, Weigher::VCpuCapacity { .. });
            // A removed host has no cores: its weight may be no number, so it must be filtered out first.
            index.usable = filters.contains(&Filter::Compute)
                && filters.iter().all(simple_filter)
                && weighers.len() <= 1
                && weighers.iter().all(simple_weigher);
            index.multiplier = weighers.first().map_or(0.0, crate::scheduler::multiplier);
        }
        if index.usable {
            let n = self.s.hosts.len();
            for column in [&mut index.cpu_room, &mut index.memory_room_mib, &mut index.weight] {
                column.resize(n, 0.0);
            }
        }
        self.scratch.index = index;
        for host in 0..self.s.hosts.len() {
            self.reindex(host, false);
        }
    }
}

/// The most cores that a task may ask for on a host; none at all where the host is not up or full by another condition.
fn cpu_room(views: &HostViews, filters: &[Filter], host: usize) -> f64 {
    filters.iter().fold(f64::INFINITY, |room, filter| {
        let most = match *filter {
            Filter::Compute if !views.up[host] => f64::NEG_INFINITY,
            Filter::InstanceCount { limit } if i64::from(views.tasks[host]) >= i64::from(limit) => f64::NEG_INFINITY,
            Filter::VCpu { allocation_ratio } => {
                room_of(allocation_ratio, f64::from(views.core_count[host]), f64::from(views.free_cores[host]))
            }
            _ => f64::INFINITY,
        };
        room.min(most)
    })
}

/// The most memory that a task may ask for on a host.
fn memory_room_mib(views: &HostViews, filters: &[Filter], host: usize) -> f64 {
    filters.iter().fold(f64::INFINITY, |room, filter| match *filter {
        Filter::Ram { allocation_ratio } => {
            let (total, free) = (views.memory_mib[host] as f64, views.free_memory_mib[host] as f64);
            room.min(room_of(allocation_ratio, total, free))
        }
        _ => room,
    })
}

/// What `over_committed` lets through, as a bound.
fn room_of(ratio: f64, total: f64, free: f64) -> f64 {
    if ratio == 1.0 { free } else { total.min(total * ratio - (total - free)) }
}

/// Weight of a host where it does not depend on the task.
pub(crate) fn weight(views: &HostViews, weigher: &Weigher, host: usize) -> f64 {
    match *weigher {
        Weigher::Ram { .. } => views.free_memory_mib[host] as f64,
        // The reference multiplies here and again when it adds, so that the sign cancels.
        Weigher::CoreRam { multiplier } => {
            multiplier * views.free_memory_mib[host] as f64 / f64::from(views.core_count[host])
        }
        Weigher::InstanceCount { .. } => f64::from(views.tasks[host]),
        // What the task asks for is subtracted by the caller.
        Weigher::VCpuCapacity { .. } => views.core_speed_mhz[host],
        Weigher::VCpu { allocation_ratio, .. } => {
            allocation_ratio - f64::from(views.core_count[host] - views.free_cores[host])
        }
        Weigher::VGpu { allocation_ratio, .. } => {
            allocation_ratio - f64::from(views.gpu_cores[host] - views.free_gpu_cores[host])
        }
    }
}
