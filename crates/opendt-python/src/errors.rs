//! Rust errors as Python exceptions of the one family in `opendt.model.errors`.

use opendt_engine::EngineError;
use opendt_formats::FormatError;
use pyo3::prelude::*;
use pyo3::types::PyType;

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    Ok(py.import("opendt.model.errors")?.getattr(name)?.cast_into::<PyType>()?)
}

/// `FormatError(file, place, found, expected, hint)`.
pub fn from_format(py: Python<'_>, error: FormatError) -> PyErr {
    let file = error.file.display().to_string();
    match class(py, "FormatError") {
        Ok(class) => PyErr::from_type(class, (file, error.place, error.found, error.expected, error.hint)),
        Err(other) => other,
    }
}

/// The exception of `opendt.model.errors` that fits.
pub fn from_engine(py: Python<'_>, error: EngineError) -> PyErr {
    let (name, place, found, expected) = match error {
        EngineError::Invalid { place, found, expected } => ("EngineError", place, found, expected),
        EngineError::Workload { task, found, expected } => ("EngineError", format!("task {task}"), found, expected),
        EngineError::Unknown { kind, name, known } => {
            ("UnknownNameError", kind.to_owned(), format!("{name:?}"), format!("one that exists: {known}"))
        }
        EngineError::Past { asked_ms, now_ms } => (
            "PastTimeError",
            "time".to_owned(),
            format!("{asked_ms} ms"),
            format!("at or after the simulation's now, {now_ms} ms; fork earlier to go back"),
        ),
        EngineError::Snapshot { found, expected } => ("SnapshotError", "snapshot".to_owned(), found, expected),
    };
    match class(py, name) {
        Ok(class) => PyErr::from_type(class, (place, found, expected)),
        Err(other) => other,
    }
}

/// A record from Python that does not hold.
pub fn from_json(py: Python<'_>, what: &str, error: &serde_json::Error) -> PyErr {
    let expected = format!("a record that the engine knows ({what})");
    from_engine(py, EngineError::invalid(what, error.to_string(), expected))
}
