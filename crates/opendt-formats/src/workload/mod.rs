//! An OpenDC workload folder as one [`Workload`].

mod fragments;
mod graph;
mod tasks;

use std::path::{Path, PathBuf};
use std::thread;

use opendt_engine::workload::{TaskIds, Workload};

use crate::error::{FormatError, Result};
use crate::runs::{IdRuns, read_id_runs};
use crate::table::Table;
use fragments::{Borders, read_fragment_values};
use graph::Dependencies;
use tasks::{TaskRows, read_task_rows};

/// Pairs of names that the two files of a workload have had: the current ones and those of the first version.
const FILE_NAMES: [(&str, &str); 2] = [("tasks.parquet", "fragments.parquet"), ("meta.parquet", "trace.parquet")];

/// A workload and what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedWorkload {
    /// The tasks that have fragments, by submission time; equal times in file order.
    pub workload: Workload,
    /// Tasks of the file that have no fragments; the reference drops them too.
    pub dropped_tasks: usize,
}

/// Reads the workload folder `dir`: `tasks.parquet` and `fragments.parquet`, of any version of the OpenDC format.
///
/// Column names of all versions are known, and any physical type that holds the values exactly: identifiers may be
/// int32, int64 or text; times may be annotated with any unit (finer than a millisecond is rounded down) or be plain
/// ms. `mem_capacity` is taken as kB and becomes `round(kB / 1000)` MiB, as in the reference. Optional columns: `name`,
/// `gpu_count`, `gpu_capacity`, `parents`, `children` (their union counts), `deferrable` or `nature`, `deadline`; of
/// fragments `gpu_usage`. Beyond OpenDC: `slowdown`, `pinned`, and `edge_mib` with a number for each entry of `parents`.
/// Columns that say nothing are left out. Fragments of a task keep their order; tasks may interleave. A parent that was dropped counts
/// as completed.
///
/// # Errors
/// [`FormatError`] when a file is missing or damaged, a column is missing or of another type, a value is missing, not
/// finite, negative or too large, an identifier occurs twice, fragments or parents name an unknown task, parents form a
/// cycle, or nothing remains to simulate.
pub fn read_workload(dir: &Path) -> Result<LoadedWorkload> {
    let (task_path, fragment_path) = find_files(dir)?;
    let (rows, fragments) = thread::scope(|scope| {
        let rows = scope.spawn(|| read_task_rows(&Table::open(&task_path)?));
        let fragments = open_fragments(&fragment_path);
        (rows.join(), fragments)
    });
    let rows = rows.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let (table, runs) = fragments?;
    let task_of_key = match_keys(&table, &rows, &runs)?;
    let mut counts = vec![0u32; rows.len()];
    for &(key, count) in &runs.runs {
        counts[task_of_key[key as usize] as usize] += count;
    }
    let order = kept_in_order(&rows, &counts);
    if order.is_empty() {
        return Err(FormatError::new(&fragment_path, "no fragments of any task", "at least one task with fragments")
            .hint("A task without fragments has nothing to run and is dropped."));
    }
    let dependencies = Dependencies::of(&rows, &order, &task_path)?;
    let borders = Borders::new(&runs, &task_of_key, &order, &counts);
    let values = read_fragment_values(&table, &borders)?;
    let dropped_tasks = rows.len() - order.len();
    let workload = assemble(rows, &order, dependencies, borders.offsets, values);
    Ok(LoadedWorkload { workload, dropped_tasks })
}

fn find_files(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    for (tasks, fragments) in FILE_NAMES {
        let (tasks, fragments) = (dir.join(tasks), dir.join(fragments));
        match (tasks.is_file(), fragments.is_file()) {
            (true, true) => return Ok((tasks, fragments)),
            (false, false) => {}
            (has_tasks, _) => {
                let (missing, other) = if has_tasks { (fragments, tasks) } else { (tasks, fragments) };
                return Err(FormatError::new(&missing, "no such file", format!("it beside {}", other.display()))
                    .hint("A workload is a folder with both files."));
            }
        }
    }
    let found = if dir.is_dir() { "neither tasks.parquet nor fragments.parquet" } else { "no such folder" };
    Err(FormatError::new(dir, found, "a workload folder with tasks.parquet and fragments.parquet")
        .hint("Check the path."))
}

fn open_fragments(path: &Path) -> Result<(Table, IdRuns)> {
    let table = Table::open(path)?;
    if u32::try_from(table.rows).is_err() {
        return Err(FormatError::new(path, format!("{} rows", table.rows), "fewer than 2^32 fragments")
            .hint("Split the workload."));
    }
    let runs = read_id_runs(&table.need(&["id"])?)?;
    Ok((table, runs))
}

/// The task row of every key that occurs, `u32::MAX` for the others.
fn match_keys(table: &Table, rows: &TaskRows, runs: &IdRuns) -> Result<Vec<u32>> {
    let found = match &runs.keys {
        TaskIds::Int(keys) => keys.iter().map(|&key| rows.find_int(key)).collect::<Vec<_>>(),
        TaskIds::Text(keys) => keys.iter().map(|key| rows.find_text(key)).collect(),
    };
    let found: Vec<u32> = found.into_iter().map(|row| row.unwrap_or(u32::MAX)).collect();
    let mut row = 0;
    for &(key, count) in &runs.runs {
        if found[key as usize] == u32::MAX {
            let (kind, other) = match (&runs.keys, &rows.ids) {
                (TaskIds::Int(_), TaskIds::Text(_)) => (" (a number)", ", where identifiers are text"),
                (TaskIds::Text(_), TaskIds::Int(_)) => (" (text)", ", where identifiers are numbers"),
                _ => ("", ""),
            };
            let id = runs.keys.text(key as usize);
            return Err(table
                .error_at(
                    row,
                    "id",
                    format!("the unknown task '{id}'{kind}"),
                    format!("a task of the tasks file{other}"),
                )
                .hint("Add the task to the tasks file or drop its fragments."));
        }
        row += count as usize;
    }
    Ok(found)
}

/// Rows of tasks that have fragments, by submission; the sort is stable, so file order breaks ties.
fn kept_in_order(rows: &TaskRows, counts: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows.len() as u32).filter(|&row| counts[row as usize] > 0).collect();
    order.sort_by_key(|&row| rows.submission_ms[row as usize]);
    order
}

fn assemble(
    rows: TaskRows,
    order: &[u32],
    dependencies: Dependencies,
    fragment_offset: Vec<u32>,
    values: fragments::FragmentValues,
) -> Workload {
    Workload {
        ids: match &rows.ids {
            TaskIds::Int(ids) => TaskIds::Int(gather(ids, order)),
            TaskIds::Text(ids) => TaskIds::Text(gather(ids, order)),
        },
        names: gather(&rows.names, order),
        submission_ms: gather(&rows.submission_ms, order),
        duration_ms: gather(&rows.duration_ms, order),
        cpu_count: gather(&rows.cpu_count, order),
        cpu_capacity_mhz: gather(&rows.cpu_capacity_mhz, order),
        memory_mib: gather(&rows.memory_mib, order),
        gpu_count: gather(&rows.gpu_count, order),
        gpu_capacity_mhz: gather(&rows.gpu_capacity_mhz, order),
        gpu_memory_mib: Vec::new(),
        deferrable: gather(&rows.deferrable, order),
        deadline_ms: gather(&rows.deadline_ms, order),
        slowdown: gather(&rows.slowdown, order),
        pinned: gather(&rows.pinned, order),
        parent_offset: dependencies.parent_offset,
        parents: dependencies.parents,
        edge_mib: dependencies.edge_mib,
        fragment_offset,
        fragment_duration_ms: values.duration_ms,
        fragment_cpu_mhz: values.cpu_mhz,
        fragment_gpu_mhz: values.gpu_mhz,
    }
}

/// The values at `order`; an absent column stays absent.
fn gather<T: Clone>(values: &[T], order: &[u32]) -> Vec<T> {
    if values.is_empty() {
        return Vec::new();
    }
    order.iter().map(|&row| values[row as usize].clone()).collect()
}
