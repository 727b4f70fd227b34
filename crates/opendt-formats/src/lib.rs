//! Parquet files of datacenter simulations, read into the engine's columns and written from them.
//!
//! - [`read_workload`]: an OpenDC workload folder (tasks and fragments) as one [`opendt_engine::workload::Workload`];
//! - [`read_carbon`], [`read_failures`], [`read_power`]: carbon, failure and power traces;
//! - [`output`]: the reference simulator's five result files.
//!
//! Nothing here makes a row: columns are decoded in batches into the layout in which they are used, and encoded from it.
//! Whatever is wrong with a file becomes one [`FormatError`], which names the file, the row, what was found, what was
//! expected and the remedy. No half-read value is ever returned and no half-written file is ever visible.
#![forbid(unsafe_code)]

pub mod error;
mod hybrid;
mod kinds;
pub mod output;
pub mod recorder;
mod runs;
mod table;
mod traces;
mod workload;

pub use error::{FormatError, Result};
pub use traces::{PowerTrace, read_carbon, read_failures, read_power};
pub use workload::{LoadedWorkload, read_workload};
