//! Many futures of one simulation in one call: forks that differ in what is to come (scenarios) and in what is changed
//! (candidates), advanced side by side on all cores without the GIL.
//!
//! Every candidate of a scenario is a fork of the same prepared simulation, so that all of them see the same tasks and the same
//! random numbers. What comes out is told per cell, so it does not depend on the number of threads.

use crate::errors;
use crate::long_work::detached;
use crate::simulation::{Simulation, parse};
use crate::workload::Workload;
use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use opendt_engine::EngineError;
use opendt_engine::change::{Change, Work};
use opendt_engine::observe::{Deaf, Observer, TaskResult};
use opendt_engine::state::TaskState;
use opendt_engine::workload::Workload as Columns;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Engine = opendt_engine::Simulation;

/// Units of work a thread should find, so that none waits long for another.
const UNITS_A_THREAD: usize = 8;

/// Ideal run time of which shorter tasks are taken to be, ms: as in `opendt.twin.metrics`.
const SLOWDOWN_BOUND_MS: i64 = 10_000;

/// What is to come, a scenario each.
struct Scenarios {
    /// Live numbers of the tasks whose work is replaced, the same in all scenarios.
    tasks: Vec<u32>,
    /// What each of them has left, ms and MHz, scenario by scenario.
    left_ms: Vec<i64>,
    cpu_mhz: Vec<f64>,
    /// Tasks that arrive.
    arrivals: Vec<Option<Arc<Columns>>>,
    /// Changes that belong to the scenario, such as a power curve; none when empty.
    setups: Vec<Vec<Change>>,
}

impl Scenarios {
    /// A fork that is set up with scenario `index`.
    fn prepared(&self, base: &Engine, index: usize) -> Result<Engine, EngineError> {
        let mut simulation = base.clone();
        if let Some(changes) = self.setups.get(index).filter(|changes| !changes.is_empty()) {
            simulation.apply_all(changes, &mut Deaf)?;
        }
        let first = index * self.tasks.len();
        for (position, &task) in self.tasks.iter().enumerate() {
            let (duration_ms, cpu_mhz) = (self.left_ms[first + position], self.cpu_mhz[first + position]);
            simulation.replace_work(task, &[Work { duration_ms, cpu_mhz, gpu_mhz: 0.0 }])?;
        }
        if let Some(arrivals) = &self.arrivals[index] {
            simulation.submit(Arc::clone(arrivals))?;
        }
        // Until its present instant is over, a host still holds what its tasks had left before.
        let now = simulation.now_ms();
        simulation.advance(now, &mut Deaf, &mut || true)?;
        Ok(simulation)
    }
}

/// Sums over a horizon, without keeping the samples.
struct Summary {
    begin_ms: i64,
    /// First instant that belongs to the horizon: the first window includes time 0.
    after_ms: i64,
    last_ms: i64,
    load_w: Vec<f64>,
    peak_w: f64,
    usage_mhz: f64,
    capacity_mhz: f64,
    hosts_up: i64,
    hosts_busy: i64,
    waits_ms: Vec<i64>,
    slowdowns: Vec<f64>,
    first_submitted_ms: i64,
    last_finished_ms: i64,
    ended: u32,
}

impl Summary {
    fn new(begin_ms: i64) -> Self {
        Summary {
            begin_ms,
            after_ms: if begin_ms == 0 { -1 } else { begin_ms },
            last_ms: i64::MIN,
            load_w: Vec::new(),
            peak_w: f64::NAN,
            usage_mhz: 0.0,
            capacity_mhz: 0.0,
            hosts_up: -1,
            hosts_busy: -1,
            waits_ms: Vec::new(),
            slowdowns: Vec::new(),
            first_submitted_ms: i64::MAX,
            last_finished_ms: i64::MIN,
            ended: 0,
        }
    }

    /// Whether a task starts in the horizon; one that waited before it and starts at its very beginning, with the changes, does.
    fn begins(&self, submitted_ms: i64, started_ms: i64) -> bool {
        started_ms > self.after_ms || (started_ms == self.after_ms && submitted_ms < started_ms)
    }

    fn note_span(&mut self, submitted_ms: i64, finished_ms: i64) {
        self.first_submitted_ms = self.first_submitted_ms.min(submitted_ms);
        self.last_finished_ms = self.last_finished_ms.max(finished_ms);
    }

    /// Waits and spans of the tasks that have not ended; gives whether one was submitted in the horizon.
    fn note_live(&mut self, simulation: &Engine, until_ms: i64) -> bool {
        let state = simulation.state();
        let mut free = vec![false; state.live.len()];
        state.free_live.iter().for_each(|&id| free[id as usize] = true);
        let mut open = false;
        for live in state.live.iter().zip(&free).filter(|(_, free)| !**free).map(|(live, _)| live) {
            match (live.state, live.scheduled_ms) {
                (TaskState::Queued, None) => self.waits_ms.push(until_ms - live.submitted_ms),
                (TaskState::Running, Some(started)) if self.begins(live.submitted_ms, started) => {
                    self.waits_ms.push(started - live.submitted_ms);
                }
                _ => {}
            }
            if live.submitted_ms > self.after_ms {
                open = true;
                self.note_span(live.submitted_ms, until_ms);
            }
        }
        open
    }
}

impl Observer for Summary {
    fn sample(&mut self, simulation: &Engine, closing: bool) {
        let now_ms = simulation.now_ms();
        if now_ms <= self.begin_ms || (closing && self.last_ms == now_ms) {
            return;
        }
        self.last_ms = now_ms;
        simulation.load_w(&mut self.load_w);
        let loads = self.load_w.iter().enumerate();
        let power_w: f64 = loads.map(|(index, &load)| simulation.grid_power_w(index, load)).sum();
        self.peak_w = self.peak_w.max(power_w);
        let state = simulation.state();
        self.usage_mhz += state.usage_mhz.iter().sum::<f64>();
        self.capacity_mhz += state.in_service_mhz.iter().sum::<f64>();
        self.hosts_up = i64::from(state.hosts_up);
        self.hosts_busy = i64::from(state.hosts_busy);
    }

    fn task_ended(&mut self, simulation: &Engine, result: &TaskResult) {
        let (submitted, queued) = (result.submitted_ms, result.scheduling_delay_ms);
        if result.scheduled_ms.is_some_and(|started| self.begins(submitted, started)) {
            self.waits_ms.push(queued);
        }
        if let (Some(ideal), Some(finished)) = (result.ideal_ms, result.finished_ms)
            && finished > self.after_ms
        {
            let ratio = (finished - result.ready_ms) as f64 / ideal.max(SLOWDOWN_BOUND_MS) as f64;
            self.slowdowns.push(ratio.max(1.0));
        }
        if submitted > self.after_ms {
            self.ended += 1;
            self.note_span(submitted, result.finished_ms.unwrap_or_else(|| simulation.now_ms()));
        }
    }
}

/// Nearest-rank 95th percentile; NaN of nothing.
fn percentile_95(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let rank = (95 * values.len()).div_ceil(100) - 1;
    *values.select_nth_unstable_by(rank, f64::total_cmp).1
}

/// Names of the columns, in the order of a cell.
const NAMES: [&str; 16] = [
    "energy_j",
    "emission_g",
    "peak_power_w",
    "usage_mhz",
    "capacity_mhz",
    "hosts_up",
    "hosts_busy",
    "tasks_active",
    "tasks_pending",
    "tasks_submitted",
    "tasks_completed",
    "tasks_terminated",
    "task_wait_p95_s",
    "task_slowdown_p95_ratio",
    "makespan_s",
    "makespan_complete",
];
type Cell = [f64; NAMES.len()];
const UNKNOWN: Cell = [f64::NAN; NAMES.len()];

fn totals(simulation: &Engine) -> (f64, f64) {
    let mut load = Vec::new();
    simulation.load_energy_j(&mut load);
    load.iter().enumerate().fold((0.0, 0.0), |(energy_j, emission_g), (index, &load)| {
        let energy = simulation.grid_energy_of_load_j(index, load);
        (energy_j + energy, emission_g + simulation.emission_of_energy_g(index, energy))
    })
}

/// Advances a fork with changes and sums up what happened; `None` when `go_on` ended it.
fn cell(
    prepared: &Engine,
    changes: &[Change],
    until_ms: i64,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Cell>, EngineError> {
    let (energy_j, emission_g) = totals(prepared);
    let before = prepared.counts();
    let mut summary = Summary::new(prepared.now_ms());
    let mut simulation = prepared.with_changes(changes, &mut summary)?;
    if !simulation.advance(until_ms, &mut summary, go_on)? {
        return Ok(None);
    }
    let (last_j, last_g) = totals(&simulation);
    let after = simulation.counts();
    let submitted = after.submitted - before.submitted;
    let open = summary.note_live(&simulation, until_ms);
    let complete = !open && summary.ended >= submitted;
    let makespan_ms = summary.last_finished_ms.saturating_sub(summary.first_submitted_ms);
    let known_span = summary.first_submitted_ms != i64::MAX;
    let mut waits_s: Vec<f64> = summary.waits_ms.iter().map(|&wait| wait as f64 / 1000.0).collect();
    let count = |hosts: i64| if hosts < 0 { f64::NAN } else { hosts as f64 };
    let terminated = (after.terminated + after.doomed) - (before.terminated + before.doomed);
    Ok(Some([
        last_j - energy_j,
        last_g - emission_g,
        summary.peak_w,
        summary.usage_mhz,
        summary.capacity_mhz,
        count(summary.hosts_up),
        count(summary.hosts_busy),
        f64::from(after.active),
        f64::from(after.pending),
        f64::from(submitted),
        f64::from(after.completed - before.completed),
        f64::from(terminated),
        percentile_95(&mut waits_s),
        percentile_95(&mut summary.slowdowns),
        if known_span { makespan_ms as f64 / 1000.0 } else { f64::NAN },
        f64::from(u8::from(complete)),
    ]))
}

/// The whole table, shared by the threads that fill it.
struct Job<'a> {
    base: &'a Engine,
    scenarios: &'a Scenarios,
    candidates: &'a [Vec<Change>],
    until_ms: i64,
    /// Candidates a unit of work takes; the last of a scenario may have fewer.
    block: usize,
    next: AtomicUsize,
    stop: AtomicBool,
    cells: Mutex<Vec<Cell>>,
    /// Of each candidate, why it cannot be applied, with the first scenario that said so.
    refusals: Mutex<Vec<Option<(usize, EngineError)>>>,
    failure: Mutex<Option<EngineError>>,
}

impl Job<'_> {
    fn blocks(&self) -> usize {
        self.candidates.len().div_ceil(self.block)
    }

    /// Takes units of work until none is left.
    fn work(&self, go_on: &mut dyn FnMut() -> bool) {
        let units = self.scenarios.arrivals.len() * self.blocks();
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit >= units || self.stop.load(Ordering::Relaxed) {
                return;
            }
            let going = self.unit(unit, &mut || !self.stop.load(Ordering::Relaxed) && go_on());
            if !matches!(going, Ok(true)) {
                self.stop.store(true, Ordering::Relaxed);
            }
            if let Err(error) = going {
                *lock(&self.failure) = Some(error);
            }
        }
    }

    /// One block of candidates of one scenario; false when it was ended.
    fn unit(&self, unit: usize, go_on: &mut dyn FnMut() -> bool) -> Result<bool, EngineError> {
        if !go_on() {
            return Ok(false);
        }
        let (scenario, block) = (unit / self.blocks(), unit % self.blocks());
        let prepared = self.scenarios.prepared(self.base, scenario)?;
        let first = block * self.block;
        for index in first..(first + self.block).min(self.candidates.len()) {
            match cell(&prepared, &self.candidates[index], self.until_ms, go_on) {
                Ok(Some(values)) => lock(&self.cells)[scenario * self.candidates.len() + index] = values,
                Ok(None) => return Ok(false),
                Err(error) => {
                    let refusal = &mut lock(&self.refusals)[index];
                    if refusal.as_ref().is_none_or(|(other, _)| scenario < *other) {
                        *refusal = Some((scenario, error));
                    }
                }
            }
        }
        Ok(true)
    }
}

/// A thread that panicked takes the call down with it, so what it held is never used.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Futures of `base`: for every scenario (rows) and every candidate (columns) what the time until `until_ms` is like.
///
/// A scenario replaces what `tasks` have left (`left_ms` and `cpu_mhz`, scenarios x tasks), lets `arrivals` come and applies its
/// `setups` (JSON lists of changes, empty bytes for none) first. A candidate is a JSON list of changes, applied now; `[]` leaves things
/// as they are. Columns are named and defined as in `opendt.twin.metrics.WindowMetrics`, NaN where unknown; `errors` tells of each
/// candidate why it cannot be applied, its cells are NaN then.
#[pyfunction]
#[pyo3(signature = (base, tasks, left_ms, cpu_mhz, arrivals, setups, candidates, until_ms, *, threads=None))]
#[allow(clippy::too_many_arguments, reason = "columns, one an argument")]
pub fn evaluate<'py>(
    py: Python<'py>,
    base: &Simulation,
    tasks: PyReadonlyArray1<'py, u32>,
    left_ms: PyReadonlyArray2<'py, i64>,
    cpu_mhz: PyReadonlyArray2<'py, f64>,
    arrivals: Vec<Option<PyRef<'py, Workload>>>,
    setups: Vec<Vec<u8>>,
    candidates: Vec<Vec<u8>>,
    until_ms: i64,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let changes = |json: &Vec<u8>| match json.as_slice() {
        b"" => Ok(Vec::new()),
        json => parse::<Vec<Change>>(py, "changes", json),
    };
    let scenarios = Scenarios {
        tasks: tasks.as_slice()?.to_vec(),
        left_ms: left_ms.as_array().iter().copied().collect(),
        cpu_mhz: cpu_mhz.as_array().iter().copied().collect(),
        arrivals: arrivals.iter().map(|one| one.as_ref().map(|one| Arc::clone(&one.columns))).collect(),
        setups: setups.iter().map(changes).collect::<PyResult<_>>()?,
    };
    let count = scenarios.arrivals.len();
    let shape = [count, scenarios.tasks.len()];
    if left_ms.as_array().shape() != shape
        || cpu_mhz.as_array().shape() != shape
        || !matches!(setups.len(), n if n == 0 || n == count)
    {
        return Err(PyValueError::new_err(format!(
            "left_ms has shape {:?}, cpu_mhz {:?} and there are {} setups, expected (scenarios, tasks) = {shape:?} twice and a \
             setup for each scenario or none",
            left_ms.as_array().shape(),
            cpu_mhz.as_array().shape(),
            setups.len(),
        )));
    }
    let live = base.inner.state().live.len();
    if let Some(task) = scenarios.tasks.iter().find(|&&task| task as usize >= live) {
        return Err(PyValueError::new_err(format!("task {task} does not exist, expected a number below {live}")));
    }
    let candidates = candidates.iter().map(changes).collect::<PyResult<Vec<_>>>()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or(cores).max(1);
    let columns = candidates.len().max(1);
    let blocks = (threads * UNITS_A_THREAD).div_ceil(count.max(1)).clamp(1, columns);
    let job = Job {
        base: &base.inner,
        scenarios: &scenarios,
        candidates: &candidates,
        until_ms,
        block: columns.div_ceil(blocks),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        cells: Mutex::new(vec![UNKNOWN; count * candidates.len()]),
        refusals: Mutex::new(vec![None; candidates.len()]),
        failure: Mutex::new(None),
    };
    detached(py, None, |go_on| {
        std::thread::scope(|scope| {
            for _ in 1..threads.min(count * job.blocks()) {
                scope.spawn(|| job.work(&mut || true));
            }
            job.work(&mut || go_on(until_ms));
        });
    })?;
    if let Some(error) = lock(&job.failure).take() {
        return Err(errors::from_engine(py, error));
    }
    columns_of(py, &lock(&job.cells), count, candidates.len(), &lock(&job.refusals))
}

fn columns_of<'py>(
    py: Python<'py>,
    cells: &[Cell],
    scenarios: usize,
    candidates: usize,
    refusals: &[Option<(usize, EngineError)>],
) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let refused: Vec<bool> = refusals.iter().map(Option::is_some).collect();
    for (column, name) in NAMES.iter().enumerate() {
        let value = |(index, cell): (usize, &Cell)| if refused[index % candidates] { f64::NAN } else { cell[column] };
        let values: Vec<f64> = cells.iter().enumerate().map(value).collect();
        out.set_item(name, values.into_pyarray(py).reshape([scenarios, candidates])?)?;
    }
    let texts = refusals.iter().map(|refusal| refusal.as_ref().map(|(_, error)| error.to_string()));
    out.set_item("errors", PyList::new(py, texts.collect::<Vec<_>>())?)?;
    Ok(out)
}
