//! Time series and task results, kept outside the simulation's state.

use crate::observe::{Observer, TaskResult};
use crate::sim::Simulation;
use crate::state::HostStatus;

/// Utilisations at which the basis functions of a power curve peak: straight lines between neighbours ("hats").
///
/// At every sample the recorder sums, over the busy hosts of a class, the value of each hat at the host's utilisation. Any
/// piecewise-linear power curve on these knots is then a matrix product: calibration and re-pricing need no second run.
pub const KNOTS: [f64; 11] = [0.0, 0.02, 0.06, 0.15, 0.3, 0.45, 0.6, 0.75, 0.88, 0.96, 1.0];

/// Samples of a simulation, one entry a sample; two-dimensional columns are row-major.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Record the basis functions too.
    pub with_basis: bool,
    /// Time, ms since the start.
    pub time_ms: Vec<i64>,
    /// Number of clusters, the width of the cluster columns.
    pub clusters: usize,
    /// Power from the grid, W, a cluster each.
    pub power_w: Vec<f64>,
    /// Energy from the grid since the start, J, a cluster each.
    pub energy_j: Vec<f64>,
    /// Carbon emitted since the start, g, a cluster each.
    pub emission_g: Vec<f64>,
    /// Intensity, g/kWh, a cluster each.
    pub intensity_g_per_kwh: Vec<f64>,
    /// CPU supply, MHz, a cluster each.
    pub usage_mhz: Vec<f64>,
    /// CPU demand, MHz, a cluster each.
    pub demand_mhz: Vec<f64>,
    /// CPU capacity of hosts in service, MHz, a cluster each.
    pub capacity_mhz: Vec<f64>,
    /// Hosts in service.
    pub hosts_up: Vec<i64>,
    /// Hosts with tasks.
    pub hosts_busy: Vec<i64>,
    /// Tasks in the queue.
    pub tasks_pending: Vec<i64>,
    /// Tasks on hosts.
    pub tasks_active: Vec<i64>,
    /// Tasks completed so far.
    pub tasks_completed: Vec<i64>,
    /// Tasks given up so far.
    pub tasks_terminated: Vec<i64>,
    /// Number of host classes, the width of the class columns.
    pub classes: usize,
    /// Sum of each hat over the busy hosts of each class: sample x class x knot.
    pub basis: Vec<f64>,
    /// Hosts that draw power, sample x class.
    pub class_hosts: Vec<f64>,
    scratch: Vec<[f64; 5]>,
}

impl Series {
    /// An empty series.
    pub fn new(with_basis: bool) -> Self {
        Series { with_basis, ..Series::default() }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.time_ms.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.time_ms.is_empty()
    }

    /// Takes a sample now.
    pub fn record(&mut self, simulation: &Simulation) {
        let state = simulation.state();
        let model = simulation.model();
        self.clusters = model.clusters.len();
        self.time_ms.push(state.now);
        let mut scratch = std::mem::take(&mut self.scratch);
        simulation.sample_sums(&mut scratch);
        for (index, &[power_w, energy_j, usage_mhz, demand_mhz, capacity_mhz]) in scratch.iter().enumerate() {
            self.power_w.push(simulation.grid_power_w(index, power_w));
            self.intensity_g_per_kwh.push(state.clusters[index].intensity_g_per_kwh);
            let energy_j = simulation.grid_energy_of_load_j(index, energy_j);
            self.energy_j.push(energy_j);
            self.emission_g.push(simulation.emission_of_energy_g(index, energy_j));
            self.usage_mhz.push(usage_mhz);
            self.demand_mhz.push(demand_mhz);
            self.capacity_mhz.push(capacity_mhz);
        }
        self.scratch = scratch;
        self.hosts_up.push(i64::from(state.hosts_up));
        self.hosts_busy.push(i64::from(state.hosts_busy));
        if self.with_basis {
            self.record_basis(simulation);
        }
        let counts = state.counts;
        self.tasks_pending.push(i64::from(counts.pending));
        self.tasks_active.push(i64::from(counts.active));
        self.tasks_completed.push(i64::from(counts.completed));
        self.tasks_terminated.push(i64::from(counts.terminated));
    }

    /// Sums the hats over the busy hosts of each class.
    fn record_basis(&mut self, simulation: &Simulation) {
        let state = simulation.state();
        self.widen(simulation.model().classes.len());
        let basis = self.basis.len().saturating_sub(self.classes * KNOTS.len());
        let class_hosts = self.class_hosts.len().saturating_sub(self.classes);
        for (index, host) in state.hosts.iter().enumerate() {
            if host.status == HostStatus::Removed {
                continue;
            }
            let class = host.class as usize;
            self.class_hosts[class_hosts + class] += 1.0;
            if host.streams {
                // A lone task that gets what it asks for: its share is known.
                add_hats(&mut self.basis[basis + class * KNOTS.len()..][..KNOTS.len()], host.active_ratio);
            } else if host.slot_count > 0 {
                let u = (state.demand_mhz[index] / host.capacity_mhz).min(1.0);
                add_hats(&mut self.basis[basis + class * KNOTS.len()..][..KNOTS.len()], u);
            }
        }
    }

    /// Adds a row of the class columns; earlier rows grow when a class has been added.
    fn widen(&mut self, classes: usize) {
        if classes != self.classes {
            let rows = self.class_hosts.len().checked_div(self.classes).unwrap_or(0);
            self.basis = regrid(&self.basis, rows, self.classes * KNOTS.len(), classes * KNOTS.len());
            self.class_hosts = regrid(&self.class_hosts, rows, self.classes, classes);
            self.classes = classes;
        }
        self.basis.resize(self.basis.len() + classes * KNOTS.len(), 0.0);
        self.class_hosts.resize(self.class_hosts.len() + classes, 0.0);
    }
}

fn regrid(values: &[f64], rows: usize, old: usize, new: usize) -> Vec<f64> {
    let mut wider = vec![0.0; rows * new];
    for row in 0..rows {
        wider[row * new..row * new + old].copy_from_slice(&values[row * old..(row + 1) * old]);
    }
    wider
}

/// Index of the first knot at or above each hundredth, the second knot at least.
const RIGHT_OF_HUNDREDTH: [u8; 101] = {
    let mut right = [1; 101];
    let mut hundredth = 0;
    while hundredth <= 100 {
        while KNOTS[right[hundredth] as usize] < hundredth as f64 / 100.0 {
            right[hundredth] += 1;
        }
        hundredth += 1;
    }
    right
};

/// Index of the first knot at or above `u` in [0, 1], the second knot at least: looked up, as every host asks at every
/// sample. Knots are hundredths at least two apart, so that the table is right or one too low.
#[inline]
fn right_knot(u: f64) -> usize {
    let right = usize::from(RIGHT_OF_HUNDREDTH[((u * 100.0) as usize).min(100)]);
    if KNOTS[right] < u { (right + 1).min(KNOTS.len() - 1) } else { right }
}

/// Adds the values of the hats at utilisation `u`.
#[inline]
fn add_hats(row: &mut [f64], u: f64) {
    let right = right_knot(u);
    let weight = (u - KNOTS[right - 1]) / (KNOTS[right] - KNOTS[right - 1]);
    row[right - 1] += 1.0 - weight;
    row[right] += weight;
}

/// A series and all task results.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// Samples.
    pub series: Series,
    /// Results with the identifiers of their tasks.
    pub results: Vec<(TaskKey, TaskResult)>,
}

/// Identifier of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskKey {
    /// A whole number.
    Int(i64),
    /// A string.
    Text(Box<str>),
}

impl Observer for Recorder {
    fn sample(&mut self, simulation: &Simulation, closing: bool) {
        // A closing sample that falls on a tick would only repeat it.
        if !closing || self.series.time_ms.last() != Some(&simulation.now_ms()) {
            self.series.record(simulation);
        }
    }

    fn task_ended(&mut self, simulation: &Simulation, result: &TaskResult) {
        let key = match &simulation.workload(result.chunk).ids {
            crate::workload::TaskIds::Int(ids) => TaskKey::Int(ids[result.index as usize]),
            crate::workload::TaskIds::Text(ids) => TaskKey::Text(ids[result.index as usize].clone()),
        };
        self.results.push((key, result.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knots_are_found_as_a_search_finds_them() {
        let near = KNOTS.iter().flat_map(|&knot| [knot.next_down().max(0.0), knot, knot.next_up().min(1.0)]);
        for u in near.chain((0..=100_000).map(|step| f64::from(step) / 100_000.0)) {
            let searched = KNOTS.partition_point(|&knot| knot < u).clamp(1, KNOTS.len() - 1);
            assert_eq!(right_knot(u), searched, "at {u:?}");
        }
    }
}
