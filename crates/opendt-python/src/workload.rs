//! Workloads: read by Rust, or made from NumPy columns; handles share their memory with simulations.

use crate::errors;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use opendt_engine::workload::{TaskIds, Usage, Workload as Columns};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::path::PathBuf;
use std::sync::Arc;

/// Tasks and fragments in the engine's columns.
#[pyclass(frozen, module = "opendt._engine")]
pub struct Workload {
    pub(crate) columns: Arc<Columns>,
    /// Tasks of the file that had no fragments.
    #[pyo3(get)]
    dropped_tasks: usize,
}

impl Workload {
    pub(crate) fn new(columns: Columns, dropped_tasks: usize) -> Self {
        Workload { columns: Arc::new(columns), dropped_tasks }
    }
}

/// Reads an OpenDC workload folder.
#[pyfunction]
pub fn read_workload(py: Python<'_>, path: PathBuf) -> PyResult<Workload> {
    let loaded = py.detach(|| opendt_formats::read_workload(&path)).map_err(|error| errors::from_format(py, error))?;
    Ok(Workload::new(loaded.workload, loaded.dropped_tasks))
}

fn column<'py, T: numpy::Element + Clone>(columns: &Bound<'py, PyDict>, name: &str) -> PyResult<Vec<T>> {
    match columns.get_item(name)? {
        Some(value) if !value.is_none() => {
            let array: PyReadonlyArray1<'py, T> = value
                .extract()
                .map_err(|error| PyValueError::new_err(format!("column {name}: wrong type or shape: {error}")))?;
            Ok(array.as_array().to_vec())
        }
        _ => Ok(Vec::new()),
    }
}

fn texts(columns: &Bound<'_, PyDict>, name: &str) -> PyResult<Vec<Box<str>>> {
    match columns.get_item(name)? {
        Some(value) if !value.is_none() => {
            Ok(value.extract::<Vec<String>>()?.into_iter().map(String::into_boxed_str).collect())
        }
        _ => Ok(Vec::new()),
    }
}

fn usage(columns: &Bound<'_, PyDict>, name: &str) -> PyResult<Usage> {
    match column::<f32>(columns, name) {
        Ok(values) => Ok(Usage::F32(values)),
        Err(_) => Ok(Usage::from_f64(column::<f64>(columns, name)?)),
    }
}

fn ids(columns: &Bound<'_, PyDict>) -> PyResult<TaskIds> {
    match column::<i64>(columns, "ids") {
        Ok(values) => Ok(TaskIds::Int(values)),
        Err(_) => Ok(TaskIds::Text(texts(columns, "ids")?)),
    }
}

#[pymethods]
impl Workload {
    /// From columns named as in `opendt.model.Workload`, which has validated them.
    #[staticmethod]
    fn from_columns(columns: &Bound<'_, PyDict>) -> PyResult<Self> {
        let gpu = columns.get_item("fragment_gpu_mhz")?.filter(|value| !value.is_none());
        let workload = Columns {
            ids: ids(columns)?,
            names: texts(columns, "names")?,
            submission_ms: column(columns, "submission_ms")?,
            duration_ms: column(columns, "duration_ms")?,
            cpu_count: column(columns, "cpu_count")?,
            cpu_capacity_mhz: column(columns, "cpu_capacity_mhz")?,
            memory_mib: column(columns, "memory_mib")?,
            gpu_count: column(columns, "gpu_count")?,
            gpu_capacity_mhz: column(columns, "gpu_capacity_mhz")?,
            gpu_memory_mib: column(columns, "gpu_memory_mib")?,
            deferrable: column(columns, "deferrable")?,
            deadline_ms: column(columns, "deadline_ms")?,
            slowdown: column(columns, "slowdown")?,
            pinned: texts(columns, "pinned")?,
            parent_offset: column(columns, "parent_offset")?,
            parents: column(columns, "parents")?,
            edge_mib: column(columns, "edge_mib")?,
            fragment_offset: column(columns, "fragment_offset")?,
            fragment_duration_ms: column(columns, "fragment_duration_ms")?,
            fragment_cpu_mhz: usage(columns, "fragment_cpu_mhz")?,
            fragment_gpu_mhz: gpu.map(|_| usage(columns, "fragment_gpu_mhz")).transpose()?,
        };
        workload.check().map_err(|error| errors::from_engine(columns.py(), error))?;
        Ok(Workload::new(workload, 0))
    }

    fn __len__(&self) -> usize {
        self.columns.len()
    }

    /// Number of fragments.
    #[getter]
    fn fragment_count(&self) -> usize {
        self.columns.fragment_duration_ms.len()
    }

    /// Submission of the first task, ms since the epoch; 0 without tasks.
    #[getter]
    fn first_submission_ms(&self) -> i64 {
        self.columns.submission_ms.first().copied().unwrap_or(0)
    }

    /// BLAKE3 hash of all columns, as hexadecimal text.
    fn content_hash(&self, py: Python<'_>) -> PyResult<String> {
        let hash = py.detach(|| opendt_engine::snapshot::hash_workload(&self.columns));
        let hash = hash.map_err(|error| errors::from_engine(py, error))?;
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The same tasks with the first submitted at `first_submission_ms`; deadlines move along.
    fn shifted(&self, first_submission_ms: i64) -> Self {
        let mut columns = (*self.columns).clone();
        let shift = first_submission_ms - self.first_submission_ms();
        columns.submission_ms.iter_mut().for_each(|time| *time += shift);
        columns.deadline_ms.iter_mut().filter(|time| **time != -1).for_each(|time| *time += shift);
        Workload::new(columns, self.dropped_tasks)
    }

    /// The same tasks, all deferrable, each with `factor` times its duration until its deadline.
    fn all_deferrable(&self, factor: i64) -> Self {
        let mut columns = (*self.columns).clone();
        columns.deferrable = vec![true; columns.len()];
        columns.deadline_ms = columns
            .submission_ms
            .iter()
            .zip(&columns.duration_ms)
            .map(|(time, length)| time + factor * length)
            .collect();
        Workload::new(columns, self.dropped_tasks)
    }

    /// The tasks at rising `indices`; parents that are left out count as completed.
    fn select(&self, indices: Vec<u32>) -> PyResult<Self> {
        let rising = indices.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || indices.last().is_some_and(|&last| last as usize >= self.columns.len()) {
            return Err(PyValueError::new_err(format!("indices must rise and lie below {}", self.columns.len())));
        }
        Ok(Workload::new(self.columns.select(&indices), self.dropped_tasks))
    }

    /// All columns; those of fragments are copies, made once.
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let c = &*self.columns;
        let out = PyDict::new(py);
        match &c.ids {
            TaskIds::Int(values) => out.set_item("ids", PyArray1::from_slice(py, values))?,
            TaskIds::Text(values) => out.set_item("ids", PyList::new(py, values.iter().map(|text| &**text))?)?,
        }
        for (name, values) in [("names", &c.names), ("pinned", &c.pinned)] {
            if !values.is_empty() {
                out.set_item(name, PyList::new(py, values.iter().map(|text| &**text))?)?;
            }
        }
        macro_rules! arrays {
            ($($name:ident),*) => { $(
                if !c.$name.is_empty() || stringify!($name).starts_with("fragment") {
                    out.set_item(stringify!($name), PyArray1::from_slice(py, &c.$name))?;
                }
            )* };
        }
        arrays!(
            submission_ms,
            duration_ms,
            cpu_count,
            cpu_capacity_mhz,
            memory_mib,
            gpu_count,
            gpu_capacity_mhz,
            gpu_memory_mib,
            deferrable,
            deadline_ms,
            slowdown,
            parent_offset,
            parents,
            edge_mib,
            fragment_offset,
            fragment_duration_ms
        );
        out.set_item("fragment_cpu_mhz", usage_array(py, &c.fragment_cpu_mhz)?)?;
        if let Some(gpu) = &c.fragment_gpu_mhz {
            out.set_item("fragment_gpu_mhz", usage_array(py, gpu)?)?;
        }
        Ok(out)
    }
}

fn usage_array<'py>(py: Python<'py>, usage: &Usage) -> PyResult<Bound<'py, PyAny>> {
    Ok(match usage {
        Usage::F32(values) => values.clone().into_pyarray(py).into_any(),
        Usage::F64(values) => values.clone().into_pyarray(py).into_any(),
    })
}
