//! Traces read by Rust, and whole experiments that never touch Python's memory: read, simulate, write.

use crate::errors;
use crate::long_work::detached;
use crate::workload::Workload;
use numpy::{IntoPyArray, PyArray1};
use opendt_engine::observe::{Observer, TaskResult};
use opendt_engine::spec::{Options, Topology};
use opendt_formats::FormatError;
use opendt_formats::output::{ClusterPart, HostInfo, OutputFile, OutputOptions, OutputWriter, TaskTable};
use opendt_formats::recorder::OutputRecorder;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

/// Carbon intensities: (ms since the epoch, g/kWh), by time.
#[pyfunction]
pub fn read_carbon(py: Python<'_>, path: PathBuf) -> PyResult<Vec<(i64, f64)>> {
    let points = opendt_formats::read_carbon(&path).map_err(|error| errors::from_format(py, error))?;
    Ok(points.into_iter().map(|point| (point.timestamp_ms, point.intensity_g_per_kwh)).collect())
}

/// Failures: (interval ms, duration ms, share of the hosts).
#[pyfunction]
pub fn read_failures(py: Python<'_>, path: PathBuf) -> PyResult<Vec<(i64, i64, f64)>> {
    let events = opendt_formats::read_failures(&path).map_err(|error| errors::from_format(py, error))?;
    Ok(events.into_iter().map(|event| (event.interval_ms, event.duration_ms, event.host_ratio)).collect())
}

/// Measured power: times in ms since the first submission, and W.
#[pyfunction]
#[allow(clippy::type_complexity)]
pub fn read_power<'py>(
    py: Python<'py>,
    path: PathBuf,
) -> PyResult<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>)> {
    let trace = opendt_formats::read_power(&path).map_err(|error| errors::from_format(py, error))?;
    Ok((trace.timestamp_ms.into_pyarray(py), trace.power_w.into_pyarray(py)))
}

/// Simulates one scenario and writes its result files into `target`; returns totals.
///
/// `files` names the result files, each with the columns wanted or `None` for all. `progress` is called now and then with the
/// number of tasks that have ended.
#[pyfunction]
#[pyo3(signature = (topology_json, options_json, workload, target, *, files, interval_ms, progress=None))]
#[allow(clippy::too_many_arguments)]
pub fn simulate_to_files<'py>(
    py: Python<'py>,
    topology_json: &[u8],
    options_json: &[u8],
    workload: &Workload,
    target: Option<PathBuf>,
    files: Vec<(String, Option<Vec<String>>)>,
    interval_ms: i64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let topology: Topology =
        serde_json::from_slice(topology_json).map_err(|error| errors::from_json(py, "topology", &error))?;
    let options: Options =
        serde_json::from_slice(options_json).map_err(|error| errors::from_json(py, "options", &error))?;
    let columns = Arc::clone(&workload.columns);
    let mut simulation =
        opendt_engine::Simulation::new(&topology, &options).map_err(|error| errors::from_engine(py, error))?;
    simulation.set_sampling(Some(interval_ms), false).map_err(|error| errors::from_engine(py, error))?;
    simulation.submit(columns).map_err(|error| errors::from_engine(py, error))?;
    let start_epoch_ms = options.start_epoch_ms;
    let mut waits_ms = Vec::with_capacity(workload.columns.len());
    let ended = Cell::new(0);
    let written = match target {
        Some(target) => {
            let output = output_options(&simulation, &files, workload, start_epoch_ms)
                .map_err(|error| errors::from_format(py, error))?;
            let wanted: Vec<OutputFile> = output.files.iter().map(|(file, _)| *file).collect();
            let writer = OutputWriter::create(&target, &output).map_err(|error| errors::from_format(py, error))?;
            let recorder = OutputRecorder::new(writer, &wanted, output.gpus_per_host, start_epoch_ms);
            let (run, waits) = (&mut simulation, &mut waits_ms);
            let result = detached(py, progress, move |go_on| {
                let mut observer = WithWaits { inner: recorder, waits_ms: waits, ended: &ended };
                let whole = run.run(&mut observer, &mut || go_on(ended.get()));
                if whole { observer.inner.finish() } else { Ok(()) }
            })?;
            result.map_err(|error: FormatError| errors::from_format(py, error))
        }
        None => {
            let (run, waits) = (&mut simulation, &mut waits_ms);
            detached(py, progress, move |go_on| {
                let mut observer = WithWaits { inner: opendt_engine::Deaf, waits_ms: waits, ended: &ended };
                run.run(&mut observer, &mut || go_on(ended.get()))
            })?;
            Ok(())
        }
    };
    written?;
    totals(py, &simulation, waits_ms)
}

/// Keeps the waits of the tasks that started, beside what another observer does.
struct WithWaits<'a, O> {
    inner: O,
    waits_ms: &'a mut Vec<i64>,
    ended: &'a Cell<i64>,
}

impl<O: Observer> Observer for WithWaits<'_, O> {
    fn sample(&mut self, simulation: &opendt_engine::Simulation, closing: bool) {
        self.inner.sample(simulation, closing);
    }

    fn task_ended(&mut self, simulation: &opendt_engine::Simulation, result: &TaskResult) {
        self.ended.set(self.ended.get() + 1);
        if result.scheduled_ms.is_some() {
            self.waits_ms.push(result.scheduling_delay_ms);
        }
        self.inner.task_ended(simulation, result);
    }
}

fn output_options(
    simulation: &opendt_engine::Simulation,
    files: &[(String, Option<Vec<String>>)],
    workload: &Workload,
    start_epoch_ms: i64,
) -> Result<OutputOptions, FormatError> {
    let model = simulation.model();
    let hosts = (0..simulation.host_count()).map(|host| {
        let class = &model.classes[simulation.state().hosts[host].class as usize];
        HostInfo {
            name: simulation.host_name(host),
            cluster: model.clusters[class.cluster as usize].name.clone(),
            core_count: class.group.core_count,
            memory_mib: class.group.memory_mib,
        }
    });
    let gpus_per_host = model.classes.iter().filter_map(|class| class.gpu.as_ref()).map(|gpu| gpu.count as usize).max();
    let known = |(name, columns): &(String, Option<Vec<String>>)| match OutputFile::from_name(name) {
        Some(file) => Ok((file, columns.clone())),
        None => Err(FormatError::new(
            name.as_ref(),
            "a result file of no known name",
            "host, task, powerSource, battery or service",
        )),
    };
    Ok(OutputOptions {
        files: files.iter().map(known).collect::<Result<_, _>>()?,
        start_epoch_ms,
        hosts: hosts.collect(),
        tasks: Arc::new(TaskTable::of(&workload.columns, start_epoch_ms)),
        power_sources: model
            .clusters
            .iter()
            .map(|cluster| ClusterPart { name: cluster.source_name.clone(), cluster: cluster.name.clone() })
            .collect(),
        batteries: model
            .clusters
            .iter()
            .filter_map(|cluster| cluster.battery.as_ref().map(|battery| (battery, cluster)))
            .map(|(battery, cluster)| ClusterPart { name: battery.name.clone(), cluster: cluster.name.clone() })
            .collect(),
        gpus_per_host: gpus_per_host.unwrap_or(0),
        ..OutputOptions::default()
    })
}

fn totals<'py>(
    py: Python<'py>,
    simulation: &opendt_engine::Simulation,
    mut waits_ms: Vec<i64>,
) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let counts = simulation.counts();
    let mut load = Vec::new();
    simulation.load_energy_j(&mut load);
    let (mut energy, mut emission) = (0.0, 0.0);
    for (index, &load) in load.iter().enumerate() {
        let grid = simulation.grid_energy_of_load_j(index, load);
        energy += grid;
        emission += simulation.emission_of_energy_g(index, grid);
    }
    let active: f64 = simulation.state().hosts.iter().map(|host| host.active_ms).sum();
    let span = (simulation.now_ms() as f64 * simulation.host_count() as f64).max(1.0);
    out.set_item("makespan_ms", simulation.now_ms())?;
    out.set_item("tasks_total", counts.submitted)?;
    out.set_item("tasks_completed", counts.completed)?;
    out.set_item("tasks_terminated", counts.terminated + counts.doomed)?;
    out.set_item("energy_j", energy)?;
    out.set_item("emission_g", emission)?;
    out.set_item("mean_utilization_ratio", active / span)?;
    let started = waits_ms.len();
    out.set_item("mean_wait_ms", waits_ms.iter().map(|&wait| wait as f64).sum::<f64>() / started.max(1) as f64)?;
    // The nearest rank: a wait that some task had.
    let rank = (started * 95).div_ceil(100).saturating_sub(1);
    let p95 = if started == 0 { 0 } else { *waits_ms.select_nth_unstable(rank).1 };
    out.set_item("p95_wait_ms", p95)?;
    Ok(out)
}
