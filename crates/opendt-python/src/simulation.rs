//! The simulation as Python sees it: state in Rust, series and results beside it, so that a fork does not copy history.

use crate::errors;
use crate::long_work::detached;
use crate::workload::Workload;
use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1};
use opendt_engine::EngineError;
use opendt_engine::change::{Change, Work};
use opendt_engine::feed::{Food, Wait};
use opendt_engine::observe::TaskResult;
use opendt_engine::series::{KNOTS, Recorder, Series, TaskKey};
use opendt_engine::spec::{Options, Topology};
use opendt_engine::state::{HostStatus, TaskState};
use opendt_engine::workload::NONE;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::sync::Arc;

/// One replica of the simulated system, with what it recorded since the last time that was taken.
#[pyclass(module = "opendt._engine")]
pub struct Simulation {
    pub(crate) inner: opendt_engine::Simulation,
    recorder: Recorder,
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(py: Python<'_>, what: &str, json: &[u8]) -> PyResult<T> {
    serde_json::from_slice(json).map_err(|error| errors::from_json(py, what, &error))
}

#[pymethods]
impl Simulation {
    /// From the JSON records of a topology and of options.
    #[new]
    #[pyo3(signature = (topology_json, options_json, *, sample_interval_ms=None, settled=false, with_basis=false))]
    fn new(
        py: Python<'_>,
        topology_json: &[u8],
        options_json: &[u8],
        sample_interval_ms: Option<i64>,
        settled: bool,
        with_basis: bool,
    ) -> PyResult<Self> {
        let topology: Topology = parse(py, "topology", topology_json)?;
        let options: Options = parse(py, "options", options_json)?;
        let mut inner =
            opendt_engine::Simulation::new(&topology, &options).map_err(|error| errors::from_engine(py, error))?;
        inner.set_sampling(sample_interval_ms, settled).map_err(|error| errors::from_engine(py, error))?;
        Ok(Simulation { inner, recorder: Recorder { series: Series::new(with_basis), results: Vec::new() } })
    }

    /// Present time, ms since the start.
    #[getter]
    fn now_ms(&self) -> i64 {
        self.inner.now_ms()
    }

    /// Absolute time of the start, ms since the epoch.
    #[getter]
    fn start_epoch_ms(&self) -> i64 {
        self.inner.model().options.start_epoch_ms
    }

    /// Whether no task is live or to come.
    #[getter]
    fn is_done(&self) -> bool {
        self.inner.nothing_left()
    }

    /// Samples at every multiple of the interval; `None` ends sampling.
    #[pyo3(signature = (interval_ms, *, settled=false))]
    fn set_sampling(&mut self, py: Python<'_>, interval_ms: Option<i64>, settled: bool) -> PyResult<()> {
        self.inner.set_sampling(interval_ms, settled).map_err(|error| errors::from_engine(py, error))
    }

    /// Gives the simulation more tasks.
    fn submit(&mut self, py: Python<'_>, workload: &Workload) -> PyResult<()> {
        let columns = Arc::clone(&workload.columns);
        self.inner.submit(columns).map_err(|error| errors::from_engine(py, error))
    }

    /// Gives the simulation tasks whose work will be told by `feed`; the number by which `feed` knows them.
    ///
    /// `waits` has a row for each task that waits for one of an earlier workload: its index, the other's workload and index.
    #[pyo3(signature = (workload, waits=None))]
    fn submit_open(
        &mut self,
        py: Python<'_>,
        workload: &Workload,
        waits: Option<Vec<(u32, u32, u32)>>,
    ) -> PyResult<u32> {
        let columns = Arc::clone(&workload.columns);
        let wait = |(task, chunk, index)| Wait { task, parent: (chunk, index) };
        let waits: Vec<Wait> = waits.unwrap_or_default().into_iter().map(wait).collect();
        self.inner.submit_open_after(columns, &waits).map_err(|error| errors::from_engine(py, error))
    }

    /// Tells what open tasks did next: columns of pieces, `offset` borders them for each task.
    #[pyo3(signature = (workload, index, offset, duration_ms, cpu_mhz, closed, gpu_mhz=None))]
    #[allow(clippy::too_many_arguments, reason = "columns, one an argument")]
    fn feed(
        &mut self,
        py: Python<'_>,
        workload: PyReadonlyArray1<'_, u32>,
        index: PyReadonlyArray1<'_, u32>,
        offset: PyReadonlyArray1<'_, u32>,
        duration_ms: PyReadonlyArray1<'_, u32>,
        cpu_mhz: PyReadonlyArray1<'_, f64>,
        closed: PyReadonlyArray1<'_, bool>,
        gpu_mhz: Option<PyReadonlyArray1<'_, f64>>,
    ) -> PyResult<()> {
        let gpu_mhz = gpu_mhz.as_ref().map(|column| column.as_slice()).transpose()?;
        let food = Food {
            chunk: workload.as_slice()?,
            index: index.as_slice()?,
            offset: offset.as_slice()?,
            duration_ms: duration_ms.as_slice()?,
            cpu_mhz: cpu_mhz.as_slice()?,
            gpu_mhz: gpu_mhz.unwrap_or(&[]),
            closed: closed.as_slice()?,
        };
        self.inner.feed(&food).map_err(|error| errors::from_engine(py, error))
    }

    /// Since when guesses of what open tasks do carry the simulation, ms; None when none does.
    #[getter]
    fn held_since_ms(&self) -> Option<i64> {
        self.inner.held_since_ms()
    }

    /// Takes the demands held so far for what happened.
    fn forget_guesses(&mut self) {
        self.inner.forget_guesses();
    }

    /// Runs everything up to and including `until_ms`.
    #[pyo3(signature = (until_ms, progress=None))]
    fn advance(&mut self, py: Python<'_>, until_ms: i64, progress: Option<Py<PyAny>>) -> PyResult<()> {
        let (inner, recorder) = (&mut self.inner, &mut self.recorder);
        let result = detached(py, progress, |go_on| inner.advance(until_ms, recorder, &mut || go_on(until_ms)))?;
        result.map(drop).map_err(|error| errors::from_engine(py, error))
    }

    /// Runs until no task is left; takes a closing sample.
    #[pyo3(signature = (progress=None))]
    fn run(&mut self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<()> {
        if self.inner.has_open_tasks() {
            let error =
                EngineError::invalid("run", "tasks whose end is not known", "all tasks closed; or advance to a time");
            return Err(errors::from_engine(py, error));
        }
        let (inner, recorder) = (&mut self.inner, &mut self.recorder);
        detached(py, progress, |go_on| inner.run(recorder, &mut || go_on(0))).map(drop)
    }

    /// A replica that goes its own way; what this one recorded stays here.
    #[pyo3(signature = (*, with_basis=None))]
    fn fork(&self, with_basis: Option<bool>) -> Self {
        let with_basis = with_basis.unwrap_or(self.recorder.series.with_basis);
        Simulation {
            inner: self.inner.clone(),
            recorder: Recorder { series: Series::new(with_basis), results: Vec::new() },
        }
    }

    fn __copy__(&self) -> Self {
        self.fork(None)
    }

    /// Applies changes (a JSON list) in order, all or none.
    fn apply(&mut self, py: Python<'_>, changes_json: &[u8]) -> PyResult<()> {
        let changes: Vec<Change> = parse(py, "changes", changes_json)?;
        let recorder = &mut self.recorder;
        self.inner.apply_all(&changes, recorder).map_err(|error| errors::from_engine(py, error))
    }

    /// Replaces the work that running tasks have left: columns of pieces, `offset` borders them for each task number.
    fn replace_work(
        &mut self,
        py: Python<'_>,
        tasks: PyReadonlyArray1<'_, u32>,
        offset: PyReadonlyArray1<'_, u32>,
        duration_ms: PyReadonlyArray1<'_, i64>,
        cpu_mhz: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<()> {
        let (tasks, offset) = (tasks.as_array(), offset.as_array());
        let (duration_ms, cpu_mhz) = (duration_ms.as_array(), cpu_mhz.as_array());
        for (position, &task) in tasks.iter().enumerate() {
            let range = offset[position] as usize..offset[position + 1] as usize;
            let work: Vec<Work> =
                range.map(|i| Work { duration_ms: duration_ms[i], cpu_mhz: cpu_mhz[i], gpu_mhz: 0.0 }).collect();
            self.inner.replace_work(task, &work).map_err(|error| errors::from_engine(py, error))?;
        }
        Ok(())
    }

    /// Counts of the service.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = self.inner.counts();
        let out = PyDict::new(py);
        out.set_item("submitted", counts.submitted)?;
        out.set_item("pending", counts.pending)?;
        out.set_item("active", counts.active)?;
        out.set_item("completed", counts.completed)?;
        out.set_item("terminated", counts.terminated + counts.doomed)?;
        Ok(out)
    }

    /// Power that the clusters take from the grid now, W.
    fn power_w(&self) -> f64 {
        let mut load = Vec::new();
        self.inner.load_w(&mut load);
        load.iter().enumerate().map(|(index, &load)| self.inner.grid_power_w(index, load)).sum()
    }

    /// Energy that the clusters took from the grid since the start, J.
    fn energy_j(&self) -> f64 {
        let mut load = Vec::new();
        self.inner.load_energy_j(&mut load);
        load.iter().enumerate().map(|(index, &load)| self.inner.grid_energy_of_load_j(index, load)).sum()
    }

    /// Carbon emitted since the start, g.
    fn emission_g(&self) -> f64 {
        let mut load = Vec::new();
        self.inner.load_energy_j(&mut load);
        let clusters = load.iter().enumerate();
        clusters
            .map(|(index, &load)| {
                let energy = self.inner.grid_energy_of_load_j(index, load);
                self.inner.emission_of_energy_g(index, energy)
            })
            .sum()
    }

    /// Cluster and host group of each class; several classes may share one.
    fn class_names(&self) -> Vec<(String, String)> {
        let model = self.inner.model();
        let name = |class: &opendt_engine::model::HostClass| {
            (model.clusters[class.cluster as usize].name.clone(), class.group.name.clone())
        };
        model.classes.iter().map(name).collect()
    }

    /// Hosts that draw power and hosts with tasks, a number of each class.
    fn class_counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let classes = self.inner.model().classes.len();
        let (mut hosts, mut busy) = (vec![0.0; classes], vec![0.0; classes]);
        for host in &self.inner.state().hosts {
            if host.status != HostStatus::Removed {
                hosts[host.class as usize] += 1.0;
                busy[host.class as usize] += f64::from(u8::from(host.slot_count > 0));
            }
        }
        let out = PyDict::new(py);
        out.set_item("hosts", hosts.into_pyarray(py))?;
        out.set_item("busy", busy.into_pyarray(py))?;
        Ok(out)
    }

    /// Hosts as they are now.
    fn hosts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.inner.state();
        let model = self.inner.model();
        let out = PyDict::new(py);
        let n = state.hosts.len();
        out.set_item("name", PyList::new(py, (0..n).map(|host| self.inner.host_name(host)))?)?;
        let cluster = |host: usize| model.clusters[self.inner.cluster_of(host)].name.clone();
        out.set_item("cluster", PyList::new(py, (0..n).map(cluster))?)?;
        let group = |h: &opendt_engine::state::Host| model.classes[h.class as usize].group.name.clone();
        out.set_item("group", PyList::new(py, state.hosts.iter().map(group))?)?;
        let status = |h: &opendt_engine::state::Host| match h.status {
            HostStatus::Up => "up",
            HostStatus::Failed => "failed",
            HostStatus::Draining => "draining",
            HostStatus::Removed => "removed",
        };
        out.set_item("status", PyList::new(py, state.hosts.iter().map(status))?)?;
        let tasks: Vec<i64> = state.hosts.iter().map(|h| i64::from(h.slot_count)).collect();
        out.set_item("tasks", tasks.into_pyarray(py))?;
        let cores = state.views.core_count.clone();
        out.set_item("core_count", cores.into_pyarray(py))?;
        let capacity: Vec<f64> = state.hosts.iter().map(|h| h.capacity_mhz).collect();
        out.set_item("capacity_mhz", capacity.into_pyarray(py))?;
        out.set_item("demand_mhz", state.demand_mhz.clone().into_pyarray(py))?;
        out.set_item("power_w", state.power_w.clone().into_pyarray(py))?;
        let energy: Vec<f64> = (0..n).map(|host| self.inner.host_energy_j(host)).collect();
        out.set_item("energy_j", energy.into_pyarray(py))?;
        Ok(out)
    }

    /// Tasks that are in the system now: number, identifier, state, host, submission, start, demand.
    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.inner.state();
        let mut free = vec![false; state.live.len()];
        state.free_live.iter().for_each(|&id| free[id as usize] = true);
        let live: Vec<usize> = (0..state.live.len()).filter(|&id| !free[id]).collect();
        let task = |id: &usize| {
            let live = &state.live[*id];
            (self.inner.workload(live.chunk), live.index as usize, live)
        };
        let out = PyDict::new(py);
        out.set_item("number", live.iter().map(|&id| id as u32).collect::<Vec<u32>>().into_pyarray(py))?;
        let ids = live.iter().map(&task).map(|(data, index, _)| data.ids.text(index));
        out.set_item("id", PyList::new(py, ids.collect::<Vec<_>>())?)?;
        let states = live.iter().map(|&id| match state.live[id].state {
            TaskState::Blocked => "blocked",
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Failed => "failed",
            TaskState::Paused => "paused",
            TaskState::Completed => "completed",
            TaskState::Terminated => "terminated",
        });
        out.set_item("state", PyList::new(py, states.collect::<Vec<_>>())?)?;
        let number = |value: u32| if value == NONE { -1 } else { i64::from(value) };
        macro_rules! array {
            ($name:literal, $value:expr) => {
                out.set_item($name, live.iter().map($value).collect::<Vec<_>>().into_pyarray(py))?;
            };
        }
        array!("host", |&id| if state.live[id].state == TaskState::Running { number(state.live[id].host) } else { -1 });
        array!("submitted_ms", |&id| state.live[id].submitted_ms);
        array!("started_ms", |&id| state.live[id].scheduled_ms.unwrap_or(-1));
        array!("cpu_count", |id| i64::from(task(id).0.cpu_count[task(id).1]));
        array!("known_mhz", |&id| self.inner.known_demand_mhz(id as u32).unwrap_or(f64::NAN));
        array!("cpu_mhz", |&id| {
            let slot = state.live[id].slot;
            if slot == NONE { 0.0 } else { state.slots[slot as usize].cpu_mhz }
        });
        Ok(out)
    }

    /// Series recorded since they were last taken, as columns; two-dimensional ones are (samples, clusters or classes).
    fn take_series<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let with_basis = self.recorder.series.with_basis;
        let series = std::mem::replace(&mut self.recorder.series, Series::new(with_basis));
        series_columns(py, series, self.inner.model().clusters.len())
    }

    /// Results of tasks that ended since they were last taken, as columns; -1 where unknown.
    fn take_results<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        result_columns(py, std::mem::take(&mut self.recorder.results))
    }

    /// The simulation as bytes; without `workloads` only their hashes.
    #[pyo3(signature = (*, workloads=true))]
    fn snapshot<'py>(&self, py: Python<'py>, workloads: bool) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.inner.snapshot(workloads)).map_err(|error| errors::from_engine(py, error))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The simulation that `snapshot` wrote.
    #[staticmethod]
    #[pyo3(signature = (data, workloads=Vec::new(), *, with_basis=false))]
    fn restore(py: Python<'_>, data: &[u8], workloads: Vec<PyRef<'_, Workload>>, with_basis: bool) -> PyResult<Self> {
        let known: Vec<_> = workloads.iter().map(|workload| Arc::clone(&workload.columns)).collect();
        let inner = opendt_engine::Simulation::restore(data, &known).map_err(|error| errors::from_engine(py, error))?;
        Ok(Simulation { inner, recorder: Recorder { series: Series::new(with_basis), results: Vec::new() } })
    }
}

fn series_columns<'py>(py: Python<'py>, series: Series, clusters: usize) -> PyResult<Bound<'py, PyDict>> {
    let n = series.len();
    let out = PyDict::new(py);
    out.set_item("time_ms", series.time_ms.into_pyarray(py))?;
    for (name, values) in [
        ("power_w", series.power_w),
        ("energy_j", series.energy_j),
        ("emission_g", series.emission_g),
        ("intensity_g_per_kwh", series.intensity_g_per_kwh),
        ("usage_mhz", series.usage_mhz),
        ("demand_mhz", series.demand_mhz),
        ("capacity_mhz", series.capacity_mhz),
    ] {
        out.set_item(name, values.into_pyarray(py).reshape([n, clusters])?)?;
    }
    for (name, values) in [
        ("hosts_up", series.hosts_up),
        ("hosts_busy", series.hosts_busy),
        ("tasks_pending", series.tasks_pending),
        ("tasks_active", series.tasks_active),
        ("tasks_completed", series.tasks_completed),
        ("tasks_terminated", series.tasks_terminated),
    ] {
        out.set_item(name, values.into_pyarray(py))?;
    }
    if series.with_basis {
        out.set_item("basis", series.basis.into_pyarray(py).reshape([n, series.classes, KNOTS.len()])?)?;
        out.set_item("class_hosts", series.class_hosts.into_pyarray(py).reshape([n, series.classes])?)?;
    }
    Ok(out)
}

fn result_columns<'py>(py: Python<'py>, results: Vec<(TaskKey, TaskResult)>) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let whole = results.iter().all(|(key, _)| matches!(key, TaskKey::Int(_)));
    if whole {
        let ids = results.iter().map(|(key, _)| if let TaskKey::Int(id) = key { *id } else { 0 });
        out.set_item("id", ids.collect::<Vec<i64>>().into_pyarray(py))?;
    } else {
        let ids = results.iter().map(|(key, _)| match key {
            TaskKey::Int(id) => id.to_string(),
            TaskKey::Text(id) => id.to_string(),
        });
        out.set_item("id", PyList::new(py, ids.collect::<Vec<_>>())?)?;
    }
    let column = |name: &str, value: &dyn Fn(&TaskResult) -> i64| -> PyResult<()> {
        out.set_item(name, results.iter().map(|(_, r)| value(r)).collect::<Vec<i64>>().into_pyarray(py))
    };
    column("submitted_ms", &|r| r.submitted_ms)?;
    column("ready_ms", &|r| r.ready_ms)?;
    column("started_ms", &|r| r.scheduled_ms.unwrap_or(-1))?;
    column("finished_ms", &|r| r.finished_ms.unwrap_or(-1))?;
    column("host", &|r| if r.host == NONE { -1 } else { i64::from(r.host) })?;
    column("cpu_count", &|r| i64::from(r.cpu_count))?;
    column("failures", &|r| i64::from(r.failures))?;
    column("pauses", &|r| i64::from(r.pauses))?;
    column("scheduling_delay_ms", &|r| r.scheduling_delay_ms)?;
    column("failure_delay_ms", &|r| r.failure_delay_ms)?;
    column("checkpoint_delay_ms", &|r| r.checkpoint_delay_ms)?;
    column("ideal_ms", &|r| r.ideal_ms.unwrap_or(-1))?;
    let completed: Vec<bool> = results.iter().map(|(_, r)| r.state == TaskState::Completed).collect();
    out.set_item("completed", completed.into_pyarray(py))?;
    let float = |name: &str, value: &dyn Fn(&TaskResult) -> f64| -> PyResult<()> {
        out.set_item(name, results.iter().map(|(_, r)| value(r)).collect::<Vec<f64>>().into_pyarray(py))
    };
    float("energy_j", &|r| r.energy_j)?;
    float("demanded_mhz_ms", &|r| r.demanded_mhz_ms)?;
    float("supplied_mhz_ms", &|r| r.supplied_mhz_ms)?;
    float("gpu_supplied_mhz_ms", &|r| r.gpu_supplied_mhz_ms)?;
    Ok(out)
}
