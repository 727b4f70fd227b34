//! `opendt._engine`: the compiled module under `opendt.engine` and `opendt.formats`.
//!
//! Thin by rule: convert, map errors, release the GIL, let Ctrl-C through. Columns cross as NumPy arrays without a copy where
//! the engine no longer needs them; records cross as JSON, which both sides define field by field.

mod batch;
mod errors;
mod files;
mod long_work;
mod simulation;
mod workload;

use pyo3::prelude::*;

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<simulation::Simulation>()?;
    module.add_class::<workload::Workload>()?;
    module.add_function(wrap_pyfunction!(batch::evaluate, module)?)?;
    module.add_function(wrap_pyfunction!(workload::read_workload, module)?)?;
    module.add_function(wrap_pyfunction!(files::read_carbon, module)?)?;
    module.add_function(wrap_pyfunction!(files::read_failures, module)?)?;
    module.add_function(wrap_pyfunction!(files::read_power, module)?)?;
    module.add_function(wrap_pyfunction!(files::simulate_to_files, module)?)?;
    module.add("KNOTS", opendt_engine::series::KNOTS.to_vec())?;
    module.add("SNAPSHOT_VERSION", opendt_engine::snapshot::SNAPSHOT_VERSION)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    let names = [
        "KNOTS",
        "SNAPSHOT_VERSION",
        "Simulation",
        "Workload",
        "evaluate",
        "read_carbon",
        "read_failures",
        "read_power",
        "read_workload",
        "simulate_to_files",
    ];
    module.add("__all__", names.to_vec())?;
    Ok(())
}
