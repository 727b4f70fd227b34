//! Placement of queued tasks (SEMANTICS 3): filters, weighers, and the cycle that asks for one placement after another.
//!
//! Semantics are those of 2025: candidates are all hosts in definition order, weights are fresh for every task.

use crate::java_random;
use crate::observe::Observer;
use crate::placement_index::{self, SMALLEST_POSITIVE};
use crate::sim::Simulation;
use crate::spec::{Allocation, Filter, Weigher};
use crate::state::{HostStatus, TaskState};
use crate::workload::Workload;
use std::sync::Arc;

/// What a policy answers.
pub(crate) enum Choice {
    /// Place the task at this position of the queue on this host.
    Place(usize, usize),
    /// The task at this position fits nowhere now.
    Blocked(usize),
    /// Nothing to place.
    Nothing,
}

impl Simulation {
    /// One scheduling cycle.
    pub(crate) fn schedule_tasks<O: Observer>(&mut self, observer: &mut O) {
        let model = self.model.clone();
        let mut place = 0;
        while !self.s.queue.is_empty() {
            let choice = match &model.options.allocation {
                Allocation::Filter { filters, weighers, subset_size } => {
                    match self.choose_host(self.s.queue[0], filters, weighers, *subset_size) {
                        Some(host) => Choice::Place(0, host),
                        None => Choice::Blocked(0),
                    }
                }
                Allocation::Memorizing { filters } => self.choose_memorized(filters, false),
                Allocation::TimeShift { filters, weighers, subset_size, memorize, .. } => {
                    if *memorize {
                        self.choose_memorized(filters, true)
                    } else {
                        self.choose_shifted(&mut place, filters, weighers, *subset_size)
                    }
                }
            };
            match choice {
                Choice::Place(position, host) => {
                    let Some(id) = self.s.queue.remove(position) else { return };
                    self.place(id, host);
                    self.memorize_placement(host);
                }
                Choice::Blocked(position) => {
                    let id = self.s.queue[position];
                    if !self.can_never_run(id) {
                        return;
                    }
                    self.s.queue.remove(position);
                    self.s.counts.pending -= 1;
                    self.terminate(id, observer);
                }
                Choice::Nothing => return,
            }
        }
    }

    /// The best host for a task among those that pass all filters.
    pub(crate) fn choose_host(
        &mut self,
        id: u32,
        filters: &[Filter],
        weighers: &[Weigher],
        subset: usize,
    ) -> Option<usize> {
        let answer = self.ask_index(id);
        if let Some(best) = answer
            && !cfg!(debug_assertions)
        {
            return best;
        }
        let mut candidates = std::mem::take(&mut self.scratch.candidates);
        candidates.clear();
        self.find_candidates(id, filters, &mut candidates);
        let chosen = if candidates.is_empty() { None } else { Some(self.pick(id, &candidates, weighers, subset)) };
        self.scratch.candidates = candidates;
        debug_assert!(answer.is_none_or(|best| best == chosen), "two ways to place, two answers");
        chosen
    }

    fn find_candidates(&self, id: u32, filters: &[Filter], candidates: &mut Vec<u32>) {
        let live = &self.s.live[id as usize];
        let (data, task) = (&self.chunks[live.chunk as usize].data, live.index as usize);
        let end = (live.hosts.1 as usize).min(self.s.hosts.len());
        // The first filter runs over the arrays, the others over what it left.
        let mut rest = filters;
        let range = live.hosts.0..end as u32;
        match filters {
            [Filter::Compute, Filter::VCpu { allocation_ratio }, tail @ ..] if *allocation_ratio == 1.0 => {
                let cores = data.cpu_count[task] as i32;
                let views = &self.s.views;
                candidates.extend(range.filter(|&h| views.free_cores[h as usize] >= cores && views.up[h as usize]));
                rest = tail;
            }
            _ => candidates.extend(range),
        }
        for filter in rest {
            candidates.retain(|&host| self.passes(filter, host as usize, data, task));
        }
        candidates.retain(|&host| self.fits_gpu_memory(host as usize, data, task));
    }

    /// Whether a host meets one condition of a task.
    pub(crate) fn passes(&self, filter: &Filter, host: usize, data: &Workload, task: usize) -> bool {
        let views = &self.s.views;
        let cores = data.cpu_count[task] as i32;
        match *filter {
            Filter::Compute => views.up[host],
            Filter::VCpu { allocation_ratio } => over_committed(
                allocation_ratio,
                f64::from(views.core_count[host]),
                f64::from(views.free_cores[host]),
                f64::from(cores),
            ),
            Filter::Ram { allocation_ratio } => over_committed(
                allocation_ratio,
                views.memory_mib[host] as f64,
                views.free_memory_mib[host] as f64,
                data.memory_mib[task] as f64,
            ),
            Filter::InstanceCount { limit } => i64::from(views.tasks[host]) < i64::from(limit),
            Filter::VCpuCapacity => views.core_speed_mhz[host] >= data.cpu_capacity_mhz[task] / f64::from(cores.max(1)),
            Filter::VGpu { allocation_ratio } => {
                let wanted = data.gpu_count.get(task).map_or(0.0, |&n| f64::from(n));
                wanted == 0.0
                    || over_committed(
                        allocation_ratio,
                        f64::from(views.gpu_cores[host]),
                        f64::from(views.free_gpu_cores[host]),
                        wanted,
                    )
            }
            Filter::VGpuCapacity => {
                let wanted = data.gpu_count.get(task).map_or(0.0, |&n| f64::from(n));
                let capacity = data.gpu_capacity_mhz.get(task).copied().unwrap_or(0.0);
                wanted == 0.0 || views.gpu_core_speed_mhz[host] >= capacity / wanted
            }
            // Hints name no task in any of the formats read here: without a hint both conditions hold.
            Filter::SameHost | Filter::DifferentHost => true,
        }
    }

    /// GPU memory is a hard limit where a task and a host state it.
    fn fits_gpu_memory(&self, host: usize, data: &Workload, task: usize) -> bool {
        let wanted = data.gpu_memory_mib.get(task).copied().unwrap_or(0);
        wanted == 0 || self.s.views.free_gpu_memory_mib[host] >= wanted
    }

    fn pick(&mut self, id: u32, candidates: &[u32], weighers: &[Weigher], subset: usize) -> usize {
        let live = &self.s.live[id as usize];
        let (data, task) = (self.chunks[live.chunk as usize].data.clone(), live.index as usize);
        let mut weights = std::mem::take(&mut self.scratch.weights);
        let mut raw = std::mem::take(&mut self.scratch.raw);
        weights.clear();
        weights.resize(candidates.len(), 0.0);
        for weigher in weighers {
            raw.clear();
            raw.extend(candidates.iter().map(|&host| self.weight(weigher, host as usize, &data, task)));
            add_normalised(multiplier(weigher), &raw, &mut weights);
        }
        let position = if subset == 1 {
            // Ties go to the first, as a stable sort would.
            let better = |best: usize, i: usize| if weights[i] > weights[best] { i } else { best };
            (1..weights.len()).fold(0, better)
        } else {
            let mut order: Vec<u32> = (0..candidates.len() as u32).collect();
            order.sort_by(|&a, &b| weights[b as usize].total_cmp(&weights[a as usize]));
            let among = if subset == 0 { candidates.len() } else { subset.min(candidates.len()) };
            order[self.draw_below(among)] as usize
        };
        self.scratch.weights = weights;
        self.scratch.raw = raw;
        candidates[position] as usize
    }

    /// A number below `bound`, as the reference draws it.
    fn draw_below(&mut self, bound: usize) -> usize {
        let seed = java_random::placement_seed(self.model.options.seed);
        let (value, used) = java_random::below(seed, self.s.placement_draws, bound as u32);
        self.s.placement_draws += used;
        value as usize
    }

    fn weight(&self, weigher: &Weigher, host: usize, data: &Workload, task: usize) -> f64 {
        let asked = match weigher {
            Weigher::VCpuCapacity { .. } => data.cpu_capacity_mhz[task] / f64::from(data.cpu_count[task].max(1)),
            _ => return placement_index::weight(&self.s.views, weigher, host),
        };
        placement_index::weight(&self.s.views, weigher, host) - asked
    }

    /// Whether no host could take the task even when empty, or everything is empty and still none takes it.
    fn can_never_run(&self, id: u32) -> bool {
        let live = &self.s.live[id as usize];
        let (data, task): (&Arc<Workload>, usize) = (&self.chunks[live.chunk as usize].data, live.index as usize);
        // Asked at every cycle in which the first task waits: each search ends at the first host that is large enough.
        let views = &self.s.views;
        let (cores, memory_mib) = (data.cpu_count[task] as i32, data.memory_mib[task]);
        if views.core_count.iter().all(|&most| cores > most) || views.memory_mib.iter().all(|&most| memory_mib > most) {
            return true;
        }
        let gpu_cores = data.gpu_count.get(task).map_or(0, |&count| count as i32);
        let gpu_aware = gpu_cores > 0 && self.filters().iter().any(|f| matches!(f, Filter::VGpu { .. }));
        if gpu_aware && views.gpu_cores.iter().all(|&most| gpu_cores > most) {
            return true;
        }
        if self.s.counts.active > 0 {
            return false;
        }
        // Nothing runs, nothing will come back: waiting would be for ever. The reference waits.
        let may_wait =
            live.state == TaskState::Queued && self.is_carbon_aware() && data.deferrable.get(task) == Some(&true);
        let may_return = (0..self.s.hosts.len()).any(|host| {
            let conditions = self.filters().iter().filter(|filter| !matches!(filter, Filter::Compute));
            self.s.hosts[host].status == HostStatus::Failed
                && (live.hosts.0..live.hosts.1).contains(&(host as u32))
                && { conditions }.all(|filter| self.passes(filter, host, data, task))
                && self.fits_gpu_memory(host, data, task)
        });
        !may_return && !may_wait
    }

    /// Filters of the allocation policy.
    pub(crate) fn filters(&self) -> &[Filter] {
        match &self.model.options.allocation {
            Allocation::Filter { filters, .. }
            | Allocation::Memorizing { filters }
            | Allocation::TimeShift { filters, .. } => filters,
        }
    }
}

/// The reference's rule: with ratio 1 what is free must suffice, else the task must fit the host and the sum its multiple.
fn over_committed(ratio: f64, total: f64, free: f64, wanted: f64) -> bool {
    if ratio == 1.0 { free >= wanted } else { wanted <= total && total * ratio - (total - free) >= wanted }
}

pub(crate) fn multiplier(weigher: &Weigher) -> f64 {
    match *weigher {
        Weigher::Ram { multiplier }
        | Weigher::CoreRam { multiplier }
        | Weigher::InstanceCount { multiplier }
        | Weigher::VCpuCapacity { multiplier }
        | Weigher::VCpu { multiplier, .. }
        | Weigher::VGpu { multiplier, .. } => multiplier,
    }
}

/// Adds a weigher's values, scaled to [0, 1] over the candidates and multiplied. The reference's running maximum starts
/// at the smallest positive double, which widens the range of all-negative weighers; 2025 numbers need the same.
fn add_normalised(multiplier: f64, raw: &[f64], weights: &mut [f64]) {
    let mut min = f64::MAX;
    let mut max = SMALLEST_POSITIVE;
    for &value in raw {
        min = min.min(value);
        max = max.max(value);
    }
    let range = max - min;
    if range == 0.0 {
        return;
    }
    let factor = multiplier / range;
    for (weight, value) in weights.iter_mut().zip(raw) {
        *weight += factor * (value - min);
    }
}
