//! What placement looks at, one number a host: room for cores, room for memory, weight.
//!
//! The usual policies ask of a host only what it has left and weigh it by one number that does not depend on the task. Both
//! are kept as arrays that change with each placement, with the largest values of each block of hosts beside them: choosing
//! is a pass over the blocks and a look into the few that may hold the best. Other policies are answered by the general way
//! in `scheduler`; where both can answer, they agree (checked in debug builds).

use crate::sim::Simulation;
use crate::spec::{Allocation, Filter, Weigher};
use crate::state::HostViews;
use std::ops::Range;

/// Smallest positive double: where the reference's running maximum starts.
pub(crate) const SMALLEST_POSITIVE: f64 = 4.9e-324;

/// Hosts in a block.
const BLOCK: usize = 16;

/// Ranges of weights, and multipliers, in which what follows from exact numbers holds for rounded ones.
const MODERATE: Range<f64> = 1e-100..1e100;

/// Bounds of a block's hosts that take any task of at least one core.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds {
    cpu_room: f64,
    memory_room_mib: f64,
    most_weight: f64,
    least_weight: f64,
}

const NO_HOST: Bounds = Bounds {
    cpu_room: f64::NEG_INFINITY,
    memory_room_mib: f64::NEG_INFINITY,
    most_weight: f64::NEG_INFINITY,
    least_weight: f64::INFINITY,
};

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
    blocks: Vec<Bounds>,
    /// No task of at least so many cores and so much memory fits anywhere, until something changes.
    too_much: Option<(f64, f64)>,
}

impl PlacementIndex {
    /// As `best` over all hosts, by way of the blocks; `None` where that cannot tell.
    ///
    /// Weights that differ by more than a rounding error keep their order when they are scaled, whatever the least of them
    /// is. So the best host is the first of the largest weight, unless one before it weighs nearly the same.
    fn best_by_blocks(&self, cores: f64, memory_mib: f64) -> Option<Option<usize>> {
        if cores < 1.0 || !MODERATE.contains(&self.multiplier) {
            return None;
        }
        let (mut high, mut least) = (f64::NEG_INFINITY, f64::INFINITY);
        for (number, block) in self.blocks.iter().enumerate() {
            least = least.min(block.least_weight);
            if block.may_fit(cores, memory_mib) && block.most_weight > high {
                high = self.heaviest(cores, memory_mib, number).max(high);
            }
        }
        if high == f64::NEG_INFINITY {
            return Some(None);
        }
        let range = high - least;
        if range != 0.0 && !MODERATE.contains(&range) {
            return None;
        }
        let nearly = high - range * 1e-12;
        for (number, block) in self.blocks.iter().enumerate() {
            if block.may_fit(cores, memory_mib)
                && block.most_weight >= nearly
                && let Some(host) = self.first_of(cores, memory_mib, nearly, number)
            {
                return (self.weight[host] == high).then_some(Some(host));
            }
        }
        None
    }

    fn hosts_of(&self, block: usize) -> Range<usize> {
        block * BLOCK..((block + 1) * BLOCK).min(self.weight.len())
    }

    /// The largest weight in a block among the hosts that fit.
    fn heaviest(&self, cores: f64, memory_mib: f64, block: usize) -> f64 {
        let hosts = self.hosts_of(block);
        let rooms = self.cpu_room[hosts.clone()].iter().zip(&self.memory_room_mib[hosts.clone()]);
        rooms.zip(&self.weight[hosts]).fold(f64::NEG_INFINITY, |high, ((&cpu, &memory), &weight)| {
            let weight = if (cores <= cpu) & (memory_mib <= memory) { weight } else { f64::NEG_INFINITY };
            if weight > high { weight } else { high }
        })
    }

    /// The first host of a block that fits and weighs at least so much.
    fn first_of(&self, cores: f64, memory_mib: f64, weight: f64, block: usize) -> Option<usize> {
        self.hosts_of(block).find(|&host| {
            cores <= self.cpu_room[host] && memory_mib <= self.memory_room_mib[host] && self.weight[host] >= weight
        })
    }

    fn bound(&mut self, block: usize) {
        let hosts = self.hosts_of(block);
        let rooms = self.cpu_room[hosts.clone()].iter().zip(&self.memory_room_mib[hosts.clone()]);
        self.blocks[block] = rooms.zip(&self.weight[hosts]).fold(NO_HOST, |bounds, ((&cpu, &memory), &weight)| {
            // One that is full counts for nothing; its weight may be no number.
            let open = cpu > 0.0;
            let or = |value: f64, otherwise: f64| if open { value } else { otherwise };
            Bounds {
                cpu_room: bounds.cpu_room.max(cpu),
                memory_room_mib: bounds.memory_room_mib.max(or(memory, f64::NEG_INFINITY)),
                most_weight: bounds.most_weight.max(or(weight, f64::NEG_INFINITY)),
                least_weight: bounds.least_weight.min(or(weight, f64::INFINITY)),
            }
        });
    }

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

impl Bounds {
    fn may_fit(&self, cores: f64, memory_mib: f64) -> bool {
        (cores <= self.cpu_room) & (memory_mib <= self.memory_room_mib)
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
        let quick = if whole { index.best_by_blocks(cores, memory_mib) } else { None };
        debug_assert!(quick.is_none_or(|best| best == index.best(cores, memory_mib, hosts.clone())));
        let best = quick.unwrap_or_else(|| index.best(cores, memory_mib, hosts));
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
            index.bound(host / BLOCK);
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
            index.multiplier = weighers.first().map_or(1.0, crate::scheduler::multiplier);
        }
        if index.usable {
            let n = self.s.hosts.len();
            for column in [&mut index.cpu_room, &mut index.memory_room_mib, &mut index.weight] {
                column.resize(n, 0.0);
            }
            index.blocks.resize(n.div_ceil(BLOCK), NO_HOST);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draw, Purpose};

    #[test]
    fn blocks_answer_as_the_pass_over_all_hosts_does() {
        let mut answered = 0;
        for seed in 0..200 {
            let mut draw = Draw::new(seed, Purpose::Victims, 0, 0);
            let hosts = 1 + draw.below(100);
            // Few values make ties; the smallest differences vanish in scaling.
            let weights = [0.0, 1.0, 1.0 + f64::EPSILON, 2.0, -3.0, 1e9, 1e-3, 1e9 + 1e-7];
            let multiplier = [1.0, -1.0, 0.3][draw.below(3)];
            let mut index = PlacementIndex { usable: true, built: true, multiplier, ..PlacementIndex::default() };
            for _ in 0..hosts {
                let open = draw.below(4) > 0;
                index.cpu_room.push(if open { draw.below(8) as f64 } else { f64::NEG_INFINITY });
                index.memory_room_mib.push(draw.below(8) as f64);
                index.weight.push(if open { weights[draw.below(weights.len())] } else { f64::NAN });
            }
            index.blocks.resize(hosts.div_ceil(BLOCK), NO_HOST);
            (0..index.blocks.len()).for_each(|block| index.bound(block));
            for _ in 0..50 {
                let (cores, memory_mib) = (draw.below(9) as f64, draw.below(9) as f64);
                if let Some(best) = index.best_by_blocks(cores, memory_mib) {
                    assert_eq!(best, index.best(cores, memory_mib, 0..hosts));
                    answered += 1;
                }
            }
        }
        assert!(answered > 1000, "the blocks answered {answered} times only");
    }
}
