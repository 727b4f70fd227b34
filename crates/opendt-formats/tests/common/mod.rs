//! Parquet files for tests: small, written column by column, in a folder that removes itself.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder for one test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("opendt-formats-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Values of a column; `None` is null.
#[derive(Clone)]
pub enum Values {
    I32(Vec<Option<i32>>),
    I64(Vec<Option<i64>>),
    F32(Vec<Option<f32>>),
    F64(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<String>>),
    /// Lists of whole numbers.
    Lists(Vec<Vec<i32>>),
    /// Lists of numbers.
    NumberLists(Vec<Vec<f64>>),
}

pub fn i32s(values: impl IntoIterator<Item = i32>) -> Values {
    Values::I32(values.into_iter().map(Some).collect())
}

pub fn i64s(values: impl IntoIterator<Item = i64>) -> Values {
    Values::I64(values.into_iter().map(Some).collect())
}

pub fn f32s(values: impl IntoIterator<Item = f32>) -> Values {
    Values::F32(values.into_iter().map(Some).collect())
}

pub fn f64s(values: impl IntoIterator<Item = f64>) -> Values {
    Values::F64(values.into_iter().map(Some).collect())
}

pub fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> Values {
    Values::Text(values.into_iter().map(|value| Some(value.to_string())).collect())
}

pub fn lists<const N: usize>(values: [&[i32]; N]) -> Values {
    Values::Lists(values.iter().map(|list| list.to_vec()).collect())
}

pub fn number_lists<const N: usize>(values: [&[f64]; N]) -> Values {
    Values::NumberLists(values.iter().map(|list| list.to_vec()).collect())
}

/// Columns of a file: Parquet's schema words for each, and its values.
#[derive(Clone, Default)]
pub struct Columns(Vec<(String, Values)>);

impl Columns {
    /// Replaces or adds a column, such as `required int64 duration`.
    pub fn set(mut self, schema: &str, values: Values) -> Self {
        let name = name_of(schema);
        match self.0.iter_mut().find(|column| name_of(&column.0) == name) {
            Some(column) => *column = (schema.to_string(), values),
            None => self.0.push((schema.to_string(), values)),
        }
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|column| name_of(&column.0) != name);
        self
    }

    pub fn write(&self, path: &Path) {
        self.write_with(path, WriterProperties::builder().build());
    }

    pub fn write_with(&self, path: &Path, properties: WriterProperties) {
        let fields: String = self.0.iter().map(|column| field(&column.0, &column.1)).collect();
        let schema = parse_message_type(&format!("message schema {{ {fields} }}")).unwrap();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for (schema, values) in &self.0 {
            let mut column = group.next_column().unwrap().unwrap();
            put(column.untyped(), values, !schema.starts_with("required"));
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }
}

fn field(schema: &str, values: &Values) -> String {
    match values {
        Values::Lists(_) => list_field(schema, "int32"),
        Values::NumberLists(_) => list_field(schema, "double"),
        _ => format!("{schema}; "),
    }
}

fn list_field(schema: &str, element: &str) -> String {
    format!("optional group {} (LIST) {{ repeated group list {{ optional {element} element; }} }} ", name_of(schema))
}

/// All values of lists in a row, with the definition and repetition level of each entry.
fn levels_of_lists<T: Copy>(lists: &[Vec<T>]) -> (Vec<T>, Vec<i16>, Vec<i16>) {
    let (mut flat, mut present, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    for list in lists {
        if list.is_empty() {
            present.push(1);
            repeated.push(0);
        }
        for (place, value) in list.iter().enumerate() {
            flat.push(*value);
            present.push(3);
            repeated.push(i16::from(place > 0));
        }
    }
    (flat, present, repeated)
}

fn name_of(schema: &str) -> &str {
    schema.split(' ').nth(2).unwrap_or(schema)
}

fn put(writer: &mut ColumnWriter<'_>, values: &Values, optional: bool) {
    fn levels<T>(values: &[Option<T>]) -> Vec<i16> {
        values.iter().map(|value| i16::from(value.is_some())).collect()
    }
    macro_rules! flat {
        ($writer:ident, $values:ident, $convert:expr) => {{
            let present: Vec<_> = $values.iter().flatten().map($convert).collect();
            $writer.write_batch(&present, optional.then_some(levels($values).as_slice()), None).unwrap();
        }};
    }
    match (writer, values) {
        (ColumnWriter::Int32ColumnWriter(writer), Values::I32(values)) => flat!(writer, values, |v| *v),
        (ColumnWriter::Int64ColumnWriter(writer), Values::I64(values)) => flat!(writer, values, |v| *v),
        (ColumnWriter::FloatColumnWriter(writer), Values::F32(values)) => flat!(writer, values, |v| *v),
        (ColumnWriter::DoubleColumnWriter(writer), Values::F64(values)) => flat!(writer, values, |v| *v),
        (ColumnWriter::BoolColumnWriter(writer), Values::Bool(values)) => flat!(writer, values, |v| *v),
        (ColumnWriter::ByteArrayColumnWriter(writer), Values::Text(values)) => {
            flat!(writer, values, |v| ByteArray::from(v.as_str()));
        }
        (ColumnWriter::Int32ColumnWriter(writer), Values::Lists(lists)) => {
            let (flat, present, repeated) = levels_of_lists(lists);
            writer.write_batch(&flat, Some(&present), Some(&repeated)).unwrap();
        }
        (ColumnWriter::DoubleColumnWriter(writer), Values::NumberLists(lists)) => {
            let (flat, present, repeated) = levels_of_lists(lists);
            writer.write_batch(&flat, Some(&present), Some(&repeated)).unwrap();
        }
        _ => panic!("the schema's type and the values' type differ"),
    }
}

/// Three tasks of the current version; the second was submitted last.
pub fn tasks() -> Columns {
    Columns::default()
        .set("required int32 id", i32s([10, 11, 12]))
        .set("required int64 submission_time (TIMESTAMP(MILLIS,false))", i64s([1_000, 3_000, 2_000]))
        .set("required int64 duration", i64s([60_000, 60_000, 60_000]))
        .set("required int32 cpu_count", i32s([1, 2, 4]))
        .set("required double cpu_capacity", f64s([1_000.0, 2_000.0, 4_000.0]))
        .set("required int64 mem_capacity", i64s([1_499, 1_500, 100_000]))
}

/// Their fragments, interleaved.
pub fn fragments() -> Columns {
    Columns::default()
        .set("required int32 id", i32s([10, 12, 12, 11, 10]))
        .set("required int64 duration", i64s([100, 200, 201, 300, 101]))
        .set("required double cpu_usage", f64s([1.0, 2.0, 2.5, 3.0, 1.5]))
}

/// A folder with both files.
pub fn workload(tasks: &Columns, fragments: &Columns) -> TempDir {
    let dir = TempDir::new();
    tasks.write(&dir.path().join("tasks.parquet"));
    fragments.write(&dir.path().join("fragments.parquet"));
    dir
}
