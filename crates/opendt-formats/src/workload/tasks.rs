//! The tasks file, row by row as it stands.

use std::collections::HashMap;

use opendt_engine::workload::TaskIds;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};

use crate::error::{FormatError, Result};
use crate::kinds::{Kind, Rule};
use crate::runs::ID_TYPES;
use crate::table::{Column, Table, unpanicked};
use crate::traces::{length_rule, time_rule};

/// Capacities above this are a mistake of unit: a million hosts of a thousand cores do not reach it.
pub(super) const MAX_MHZ: f64 = 1e15;

/// Memory above this is a mistake of unit; sums over all tasks stay within `i64`.
const MAX_KB: f64 = 1e15;

/// Data on an edge above this is a mistake of unit.
const MAX_MIB: f64 = 1e15;

/// Identifiers of a list column: those of row `r` are `ids[offset[r]..offset[r + 1]]`.
#[derive(Debug)]
pub(super) struct IdLists {
    pub ids: TaskIds,
    pub offset: Vec<usize>,
}

/// The tasks file in file order; optional columns are empty when absent or unused.
#[derive(Debug)]
pub(super) struct TaskRows {
    pub ids: TaskIds,
    pub names: Vec<Box<str>>,
    pub submission_ms: Vec<i64>,
    pub duration_ms: Vec<i64>,
    pub cpu_count: Vec<u32>,
    pub cpu_capacity_mhz: Vec<f64>,
    pub memory_mib: Vec<i64>,
    pub gpu_count: Vec<u32>,
    pub gpu_capacity_mhz: Vec<f64>,
    pub deferrable: Vec<bool>,
    pub deadline_ms: Vec<i64>,
    pub slowdown: Vec<f64>,
    pub pinned: Vec<Box<str>>,
    pub parents: Option<IdLists>,
    pub children: Option<IdLists>,
    /// Beside each parent, the data that comes from it.
    pub edge_mib: Option<Vec<f64>>,
    by_int: HashMap<i64, u32>,
    by_text: HashMap<Box<str>, u32>,
}

impl TaskRows {
    pub fn len(&self) -> usize {
        self.submission_ms.len()
    }

    pub fn find_int(&self, id: i64) -> Option<u32> {
        self.by_int.get(&id).copied()
    }

    pub fn find_text(&self, id: &str) -> Option<u32> {
        self.by_text.get(id).copied()
    }

    /// The row of entry `index` of `ids`.
    pub fn find(&self, ids: &TaskIds, index: usize) -> Option<u32> {
        match ids {
            TaskIds::Int(ids) => self.find_int(ids[index]),
            TaskIds::Text(ids) => self.find_text(&ids[index]),
        }
    }
}

/// Reads all columns of a tasks file.
pub(super) fn read_task_rows(table: &Table) -> Result<TaskRows> {
    if table.rows == 0 {
        return Err(FormatError::new(&table.path, "no rows", "at least one task").hint("Check the workload folder."));
    }
    if table.rows >= u32::MAX as usize {
        return Err(FormatError::new(&table.path, format!("{} rows", table.rows), "fewer than 2^32 tasks"));
    }
    let ids = read_ids(table)?;
    let (by_int, by_text) = index_ids(table, &ids)?;
    let submission_ms = table.need(&["submission_time", "submissionTime", "start_time"])?.numbers(&time_rule())?;
    let (gpu_count, gpu_capacity_mhz) = read_gpus(table)?;
    let parents = read_lists(table, "parents")?;
    let edge_mib = read_edges(table, parents.as_ref())?;
    Ok(TaskRows {
        names: read_words(table, "name")?,
        duration_ms: read_durations(table, &submission_ms)?,
        submission_ms,
        cpu_count: table.need(&["cpu_count", "cpuCount", "maxCores"])?.numbers(&count_rule(None))?,
        cpu_capacity_mhz: table.need(&["cpu_capacity", "cpuCapacity"])?.numbers(&capacity_rule(None))?,
        memory_mib: read_memory(table)?,
        gpu_count,
        gpu_capacity_mhz,
        deferrable: read_deferrable(table)?,
        deadline_ms: read_deadlines(table)?,
        slowdown: read_slowdowns(table)?,
        pinned: read_words(table, "pinned")?,
        parents,
        children: read_lists(table, "children")?,
        edge_mib,
        ids,
        by_int,
        by_text,
    })
}

fn read_ids(table: &Table) -> Result<TaskIds> {
    let column = table.need(&["id"])?;
    match column.kind {
        Kind::Text => Ok(TaskIds::Text(column.texts(None)?)),
        Kind::I32 | Kind::U32 | Kind::I64 { divisor: 1 } => Ok(TaskIds::Int(column.numbers(&Rule {
            null: None,
            allows: |_: i64| true,
            expected: "the identifier of a task",
            hint: "Fill in the value or drop the row.",
        })?)),
        _ => Err(column.wrong_type(ID_TYPES)),
    }
}

type IdIndex = (HashMap<i64, u32>, HashMap<Box<str>, u32>);

fn index_ids(table: &Table, ids: &TaskIds) -> Result<IdIndex> {
    let (mut by_int, mut by_text) = (HashMap::new(), HashMap::new());
    for row in 0..ids.len() {
        let earlier = match ids {
            TaskIds::Int(ids) => by_int.insert(ids[row], row as u32),
            TaskIds::Text(ids) => by_text.insert(ids[row].clone(), row as u32),
        };
        if let Some(earlier) = earlier {
            let found = format!("the task '{}' again (first in row {earlier})", ids.text(row));
            return Err(table.error_at(row, "id", found, "each task once").hint("Rename or drop one of the two."));
        }
    }
    Ok((by_int, by_text))
}

/// `duration`, or in the first version the difference of `stop_time` and the start.
fn read_durations(table: &Table, submission_ms: &[i64]) -> Result<Vec<i64>> {
    if let Some(column) = table.find(&["duration"]) {
        return column.numbers(&length_rule());
    }
    let Some(column) = table.find(&["stop_time", "endTime"]) else {
        return Err(table.need(&["duration"]).err().unwrap_or_else(|| table.damaged("columns that change")));
    };
    let stops = column.numbers(&time_rule())?;
    if let Some(row) = (0..stops.len()).find(|&row| stops[row] < submission_ms[row]) {
        return Err(table
            .error_at(
                row,
                column.name,
                format!("{} ms", stops[row]),
                format!("at least the start, {} ms", submission_ms[row]),
            )
            .hint("Correct the value or drop the row."));
    }
    Ok(stops.iter().zip(submission_ms).map(|(stop, start)| stop - start).collect())
}

fn count_rule(null: Option<u32>) -> Rule<u32, impl Fn(u32) -> bool> {
    Rule {
        null,
        allows: |count| count < u32::MAX,
        expected: "a whole number of cores, 0 or more and below 2^32",
        hint: "Correct the value or drop the row.",
    }
}

/// The rule for capacities and demands in MHz.
pub(super) fn capacity_rule(null: Option<f64>) -> Rule<f64, impl Fn(f64) -> bool> {
    Rule {
        null,
        // False for NaN as well.
        allows: |mhz| (0.0..=MAX_MHZ).contains(&mhz),
        expected: "a number of MHz from 0 to 1e15",
        hint: "Correct the value or drop the row.",
    }
}

/// kB to MiB as the reference does it: divided by 1000 and rounded, halves up.
fn read_memory(table: &Table) -> Result<Vec<i64>> {
    let column = table.need(&["mem_capacity", "memCapacity", "requiredMemory"])?;
    let kilobytes = column.numbers(&Rule {
        null: None,
        allows: |kb: f64| (0.0..=MAX_KB).contains(&kb),
        expected: "a number of kB from 0 to 1e15",
        hint: "Correct the value or drop the row.",
    })?;
    Ok(kilobytes.iter().map(|kb| (kb / 1000.0 + 0.5).floor() as i64).collect())
}

fn read_gpus(table: &Table) -> Result<(Vec<u32>, Vec<f64>)> {
    let counts = match table.find(&["gpu_count"]) {
        Some(column) => column.numbers(&count_rule(Some(0)))?,
        None => vec![0; table.rows],
    };
    let capacities = match table.find(&["gpu_capacity"]) {
        Some(column) => column.numbers(&capacity_rule(Some(0.0)))?,
        None => vec![0.0; table.rows],
    };
    if counts.iter().all(|&count| count == 0) && capacities.iter().all(|&mhz| mhz == 0.0) {
        return Ok((Vec::new(), Vec::new()));
    }
    Ok((counts, capacities))
}

/// Text that a task may have; none when no task has any.
fn read_words(table: &Table, name: &'static str) -> Result<Vec<Box<str>>> {
    let words = table.find(&[name]).map_or_else(|| Ok(Vec::new()), |column| column.texts(Some("")))?;
    Ok(if words.iter().all(|word| word.is_empty()) { Vec::new() } else { words })
}

/// Factors of exec formats; none when all are 1.
fn read_slowdowns(table: &Table) -> Result<Vec<f64>> {
    let Some(column) = table.find(&["slowdown"]) else { return Ok(Vec::new()) };
    let factors = column.numbers(&Rule {
        null: Some(1.0),
        allows: |factor: f64| factor > 0.0 && factor.is_finite(),
        expected: "a finite factor above 0",
        hint: "Correct the value; 1 changes nothing.",
    })?;
    Ok(if factors.iter().all(|&factor| factor == 1.0) { Vec::new() } else { factors })
}

/// `edge_mib`: as many amounts of data as the task has parents; none when nothing is sent.
fn read_edges(table: &Table, parents: Option<&IdLists>) -> Result<Option<Vec<f64>>> {
    let Some(column) = table.find(&["edge_mib"]) else { return Ok(None) };
    let expected = "a list of numbers, one for each parent";
    let Some(parents) = parents else {
        return Err(FormatError::new(&table.path, "a column edge_mib without a column parents", expected)
            .hint("Add the parents or drop the column."));
    };
    if column.kind != Kind::List {
        return Err(column.wrong_type(expected));
    }
    let lists = match Kind::of_values(column.descriptor()) {
        Kind::F32 => read_list::<FloatType, _>(&column, |v| Ok(f64::from(*v)))?,
        Kind::F64 => read_list::<DoubleType, _>(&column, |v| Ok(*v))?,
        _ => return Err(column.wrong_type(expected)),
    };
    for row in 0..table.rows {
        let data = &lists.values[lists.offset[row]..lists.offset[row + 1]];
        let wanted = parents.offset[row + 1] - parents.offset[row];
        if data.len() != wanted {
            let found = format!("{} numbers", data.len());
            let expected = format!("{wanted}, one for each parent");
            return Err(table.error_at(row, column.name, found, expected).hint("Write 0 where nothing is sent."));
        }
        if let Some(bad) = data.iter().find(|mib| !(0.0..=MAX_MIB).contains(*mib)) {
            let expected = "numbers of MiB from 0 to 1e15";
            return Err(table.error_at(row, column.name, bad.to_string(), expected).hint("Correct the value."));
        }
    }
    let used = lists.values.iter().any(|&mib| mib > 0.0);
    Ok(used.then_some(lists.values))
}

/// `deferrable`, or in older versions `nature` with the word "deferrable".
fn read_deferrable(table: &Table) -> Result<Vec<bool>> {
    let deferrable = if let Some(column) = table.find(&["deferrable"]) {
        column.bools()?
    } else if let Some(column) = table.find(&["nature"]) {
        column.texts(Some(""))?.iter().map(|nature| nature.trim().eq_ignore_ascii_case("deferrable")).collect()
    } else {
        Vec::new()
    };
    Ok(if deferrable.contains(&true) { deferrable } else { Vec::new() })
}

fn read_deadlines(table: &Table) -> Result<Vec<i64>> {
    let Some(column) = table.find(&["deadline"]) else { return Ok(Vec::new()) };
    let deadlines = column.numbers(&Rule { null: Some(-1), ..time_rule() })?;
    Ok(if deadlines.iter().all(|&ms| ms == -1) { Vec::new() } else { deadlines })
}

fn read_lists(table: &Table, name: &'static str) -> Result<Option<IdLists>> {
    let Some(column) = table.find(&[name]) else { return Ok(None) };
    if column.kind != Kind::List {
        return Err(column.wrong_type("a list of identifiers"));
    }
    let lists = match Kind::of_values(column.descriptor()) {
        Kind::I32 => read_list::<Int32Type, _>(&column, |v| Ok(i64::from(*v)))?.ints(),
        Kind::U32 => read_list::<Int32Type, _>(&column, |v| Ok(i64::from(*v as u32)))?.ints(),
        Kind::I64 { divisor: 1 } => read_list::<Int64Type, _>(&column, |v| Ok(*v))?.ints(),
        Kind::Text => read_list::<ByteArrayType, _>(&column, |v| {
            std::str::from_utf8(v.data()).map(Box::from).map_err(|_| NotText)
        })?
        .texts(),
        _ => return Err(column.wrong_type("a list of identifiers as int32, int64 or text")),
    };
    Ok(Some(lists))
}

/// Bytes that are no text in UTF-8.
struct NotText;

struct RawLists<V> {
    values: Vec<V>,
    offset: Vec<usize>,
}

impl RawLists<i64> {
    fn ints(self) -> IdLists {
        IdLists { ids: TaskIds::Int(self.values), offset: self.offset }
    }
}

impl RawLists<Box<str>> {
    fn texts(self) -> IdLists {
        IdLists { ids: TaskIds::Text(self.values), offset: self.offset }
    }
}

fn read_list<T: DataType, V>(
    column: &Column<'_>,
    value_of: impl Fn(&T::T) -> std::result::Result<V, NotText>,
) -> Result<RawLists<V>> {
    let max_level = column.descriptor().max_def_level();
    let element_optional = column.descriptor().self_type().is_optional();
    let mut lists = RawLists { values: Vec::new(), offset: Vec::new() };
    for (group, rows) in column.table.groups() {
        let end = lists.offset.len() + rows;
        let mut reader = get_typed_column_reader::<T>(column.chunk(group)?);
        let (mut values, mut present, mut nesting) = (Vec::new(), Vec::new(), Vec::new());
        unpanicked(|| reader.read_records(usize::MAX, Some(&mut present), Some(&mut nesting), &mut values))
            .map_err(|error| column.table.damaged(format!("column {}: {error}", column.name)))?;
        let mut values = values.iter();
        for (&level, &repeated) in present.iter().zip(&nesting) {
            if repeated == 0 {
                lists.offset.push(lists.values.len());
            }
            let row = lists.offset.len().saturating_sub(1);
            if level == max_level {
                let value = values.next().ok_or_else(|| column.table.damaged(format!("column {}", column.name)))?;
                let value = value_of(value).map_err(|NotText| {
                    column.table.error_at(row, column.name, "bytes that are not UTF-8", "text in UTF-8")
                })?;
                lists.values.push(value);
            } else if element_optional && level == max_level - 1 {
                return Err(column
                    .table
                    .error_at(row, column.name, "a missing value (null) in the list", "a value")
                    .hint("Leave it out of the list."));
            }
        }
        column.check_rows(lists.offset.len(), end)?;
    }
    lists.offset.push(lists.values.len());
    Ok(lists)
}
