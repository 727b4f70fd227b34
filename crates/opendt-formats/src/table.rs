//! A Parquet file as named, typed, validated columns.
//!
//! A file is read into memory once (compressed it is small, and columns can then be decoded by several threads); columns
//! are decoded in batches into whatever layout the caller wants. Only what is asked for is decoded.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{BoolType, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type, Int96Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::error::{FormatError, Result};
use crate::kinds::{Kind, Number, Rule};

/// Rows decoded at a time: large enough to amortise calls, small enough for the second-level cache.
const BATCH_ROWS: usize = 1 << 15;

/// An open Parquet file.
pub(crate) struct Table {
    pub path: PathBuf,
    pub rows: usize,
    pub reader: SerializedFileReader<Bytes>,
}

impl Table {
    /// Reads the file and its footer.
    pub fn open(path: &Path) -> Result<Self> {
        let data = fs::read(path)
            .map_err(|error| FormatError::io(path, "read", &error).hint("Check the path and the permissions."))?;
        let size = data.len();
        let reader = unpanicked(|| SerializedFileReader::new(Bytes::from(data))).map_err(|error| {
            FormatError::new(
                path,
                format!("{size} bytes that are not a whole Parquet file ({error})"),
                "a Parquet file",
            )
            .hint("The file may be truncated or of another format: fetch or write it again.")
        })?;
        let rows = reader.metadata().row_groups().iter().try_fold(0usize, |sum, group| {
            usize::try_from(group.num_rows()).ok().and_then(|rows| sum.checked_add(rows))
        });
        let rows = rows.ok_or_else(|| damaged(path, "a negative or impossible number of rows"))?;
        check_offsets(path, &reader)?;
        Ok(Table { path: path.to_path_buf(), rows, reader })
    }

    /// Names of all top-level columns.
    pub fn names(&self) -> Vec<&str> {
        self.reader.metadata().file_metadata().schema().get_fields().iter().map(|field| field.name()).collect()
    }

    /// The first of `names` that exists.
    pub fn find(&self, names: &[&'static str]) -> Option<Column<'_>> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        names.iter().find_map(|&name| {
            let mut leaves = (0..schema.num_columns()).filter(|&leaf| schema.get_column_root(leaf).name() == name);
            let leaf = leaves.next()?;
            let descriptor = schema.columns()[leaf].as_ref();
            let kind = if leaves.next().is_some() { Kind::Other } else { Kind::of(descriptor) };
            Some(Column { table: self, leaf, name, kind })
        })
    }

    /// The first of `names` that exists; an error when none does.
    pub fn need(&self, names: &[&'static str]) -> Result<Column<'_>> {
        self.find(names).ok_or_else(|| {
            let older = match names.len() {
                1 => String::new(),
                _ => format!(" (or, in older files, {})", names[1..].join(", ")),
            };
            FormatError::new(
                &self.path,
                format!("only the columns {}", self.names().join(", ")),
                format!("a column {}{older}", names[0]),
            )
            .hint("Add the column, or convert the trace with `opendt convert`.")
        })
    }

    /// Number and rows of each row group.
    pub fn groups(&self) -> impl Iterator<Item = (usize, usize)> {
        self.reader.metadata().row_groups().iter().map(|group| group.num_rows() as usize).enumerate()
    }

    /// An error at a row of this file.
    pub fn error_at(
        &self,
        row: usize,
        column: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> FormatError {
        FormatError::new(&self.path, found, expected).at(format!("row {row}, column {column}"))
    }

    /// An error for content that contradicts the file's own footer or the Parquet format.
    pub fn damaged(&self, what: impl std::fmt::Display) -> FormatError {
        damaged(&self.path, what)
    }
}

/// The decoder panics on negative places and lengths: they are refused before it sees them.
fn check_offsets(path: &Path, reader: &SerializedFileReader<Bytes>) -> Result<()> {
    for chunk in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        if start < 0 || chunk.compressed_size() < 0 {
            return Err(damaged(path, format!("column {} at an impossible place", chunk.column_path().string())));
        }
    }
    Ok(())
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> FormatError {
    FormatError::new(path, format!("damaged data ({what})"), "a whole Parquet file")
        .hint("Fetch or write the file again.")
}

/// Calls into the Parquet decoder, which panics on some damaged files, and makes such a panic an error.
pub(crate) fn unpanicked<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> parquet::errors::Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the decoder stopped at an impossible value".into())))
}

/// One column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    pub table: &'a Table,
    pub leaf: usize,
    pub name: &'static str,
    pub kind: Kind,
}

impl Column<'_> {
    pub fn descriptor(&self) -> &ColumnDescriptor {
        self.table.reader.metadata().file_metadata().schema_descr().columns()[self.leaf].as_ref()
    }

    /// The error for a column of the wrong type.
    pub fn wrong_type(&self, expected: &str) -> FormatError {
        let descriptor = self.descriptor();
        let (physical, logical) = (descriptor.physical_type(), descriptor.logical_type_ref());
        let found = match (self.kind, logical) {
            (Kind::List, _) => format!("a list of {physical}"),
            (_, Some(logical)) => format!("type {physical} ({logical:?})"),
            (_, None) if descriptor.path().parts().len() > 1 => "a nested column".to_string(),
            (_, None) => format!("type {physical}"),
        };
        FormatError::new(&self.table.path, found, expected)
            .at(format!("column {}", self.name))
            .hint("Write the column with that type.")
    }

    fn null_at(&self, row: usize, expected: &str) -> FormatError {
        self.table.error_at(row, self.name, "no value (null)", expected).hint("Fill in the value or drop the row.")
    }

    /// Decodes numbers in batches: `each` gets the first row of a batch and its values.
    pub fn scan<N: Number, F: Fn(N) -> bool>(
        &self,
        rule: &Rule<N, F>,
        each: impl FnMut(usize, &[N]) -> Result<()>,
    ) -> Result<()> {
        match self.kind {
            Kind::I32 => self.scan_as::<Int32Type, _, _>(rule, |&v| N::from_int(v.into()), each),
            Kind::U32 => self.scan_as::<Int32Type, _, _>(rule, |&v| N::from_int((v as u32).into()), each),
            Kind::I64 { divisor: 1 } => self.scan_as::<Int64Type, _, _>(rule, |&v| N::from_int(v), each),
            Kind::I64 { divisor } => {
                self.scan_as::<Int64Type, _, _>(rule, |&v| N::from_int(v.div_euclid(divisor)), each)
            }
            Kind::U64 => self.scan_as::<Int64Type, _, _>(
                rule,
                |&v| {
                    let (number, exact) = N::from_int(v);
                    (number, exact && v >= 0)
                },
                each,
            ),
            Kind::Int96 => self.scan_as::<Int96Type, _, _>(rule, |v| N::from_int(v.to_millis()), each),
            Kind::F32 => self.scan_as::<FloatType, _, _>(rule, |&v| N::from_float(v.into()), each),
            Kind::F64 => self.scan_as::<DoubleType, _, _>(rule, |&v| N::from_float(v), each),
            Kind::Bool | Kind::Text | Kind::List | Kind::Other => Err(self.wrong_type("a column of numbers")),
        }
    }

    /// Decodes all numbers.
    pub fn numbers<N: Number, F: Fn(N) -> bool>(&self, rule: &Rule<N, F>) -> Result<Vec<N>> {
        let mut all = Vec::new();
        self.reserve(&mut all)?;
        self.scan(rule, |_, values| {
            all.extend_from_slice(values);
            Ok(())
        })?;
        Ok(all)
    }

    /// Room for all rows; a footer that claims more rows than memory holds is an error, not an abort.
    pub fn reserve<T>(&self, values: &mut Vec<T>) -> Result<()> {
        let rows = self.table.rows;
        values.try_reserve_exact(rows).map_err(|_| self.table.damaged(format!("a claim of {rows} rows")))
    }

    fn scan_as<T: DataType, N: Number, F: Fn(N) -> bool>(
        &self,
        rule: &Rule<N, F>,
        convert: impl Fn(&T::T) -> (N, bool),
        mut each: impl FnMut(usize, &[N]) -> Result<()>,
    ) -> Result<()> {
        let mut numbers = Vec::new(); // on the heap: a batch is too large for a thread's stack
        numbers.resize(BATCH_ROWS.min(self.table.rows), N::default());
        self.batches::<T>(|row, values, levels| {
            let numbers = &mut numbers[..values.len()];
            let mut good = true;
            for (number, value) in numbers.iter_mut().zip(values) {
                let (converted, exact) = convert(value);
                *number = converted;
                good &= exact && (rule.allows)(converted);
            }
            if !good {
                let allowed = |value: &T::T| {
                    let (converted, exact) = convert(value);
                    exact && (rule.allows)(converted)
                };
                let bad = values.iter().position(|value| !allowed(value)).unwrap_or(0);
                let at = row + nth_present(levels, bad);
                return Err(self
                    .table
                    .error_at(at, self.name, format!("{}", values[bad]), rule.expected)
                    .hint(rule.hint));
            }
            match levels {
                Some(levels) if levels.len() > numbers.len() => {
                    let Some(null) = rule.null else {
                        return Err(self.null_at(row + first_null(levels), rule.expected));
                    };
                    each(row, &spread(numbers, levels, null))
                }
                _ => each(row, numbers),
            }
        })
    }

    /// Decodes text; `null` stands for missing values, which are an error without it.
    pub fn texts(&self, null: Option<&str>) -> Result<Vec<Box<str>>> {
        if self.kind != Kind::Text {
            return Err(self.wrong_type("a column of text"));
        }
        let mut all: Vec<Box<str>> = Vec::new();
        self.batches::<ByteArrayType>(|row, values, levels| {
            if let (Some(levels), None) = (levels, null)
                && levels.len() > values.len()
            {
                return Err(self.null_at(row + first_null(levels), "text"));
            }
            let texts = values.iter().enumerate().map(|(i, value)| {
                std::str::from_utf8(value.data()).map(Box::from).map_err(|_| {
                    let at = row + nth_present(levels, i);
                    self.table.error_at(at, self.name, "bytes that are not UTF-8", "text in UTF-8")
                })
            });
            let texts: Vec<Box<str>> = texts.collect::<Result<_>>()?;
            match levels {
                Some(levels) if levels.len() > texts.len() => {
                    all.extend(spread(&texts, levels, Box::from(null.unwrap_or_default())));
                }
                _ => all.extend(texts),
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Decodes truth values; missing ones are false.
    pub fn bools(&self) -> Result<Vec<bool>> {
        if self.kind != Kind::Bool {
            return Err(self.wrong_type("a column of true and false"));
        }
        let mut all = Vec::new();
        self.batches::<BoolType>(|_, values, levels| {
            match levels {
                Some(levels) if levels.len() > values.len() => all.extend(spread(values, levels, false)),
                _ => all.extend_from_slice(values),
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Calls `each` with the first row, the present values and, for optional columns, the levels (0 is null) of each
    /// batch. Checks that there are as many rows as the footer says.
    fn batches<T: DataType>(&self, mut each: impl FnMut(usize, &[T::T], Option<&[i16]>) -> Result<()>) -> Result<()> {
        let optional = self.descriptor().max_def_level() > 0;
        let (mut values, mut levels) = (Vec::with_capacity(BATCH_ROWS), Vec::new());
        let mut row = 0;
        for (group, rows) in self.table.groups() {
            let end = row + rows;
            let mut column = get_typed_column_reader::<T>(self.chunk(group)?);
            loop {
                values.clear();
                levels.clear();
                let (rows, ..) = unpanicked(|| column.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values))
                    .map_err(|error| self.table.damaged(format!("column {}: {error}", self.name)))?;
                if rows == 0 {
                    break;
                }
                if row + rows > end {
                    break;
                }
                each(row, &values, optional.then_some(levels.as_slice()))?;
                row += rows;
            }
            self.check_rows(row, end)?;
        }
        Ok(())
    }

    /// The reader of one row group of this column.
    pub fn chunk(&self, group: usize) -> Result<ColumnReader> {
        unpanicked(|| self.table.reader.get_row_group(group)?.get_column_reader(self.leaf))
            .map_err(|error| self.table.damaged(format!("column {}: {error}", self.name)))
    }

    /// Checks that a row group ended where the footer says.
    pub fn check_rows(&self, row: usize, end: usize) -> Result<()> {
        if row == end {
            return Ok(());
        }
        Err(self.table.damaged(format!("column {} does not end at row {end} as the footer says", self.name)))
    }
}

/// Row within a batch of the `n`th value that is present.
fn nth_present(levels: Option<&[i16]>, n: usize) -> usize {
    let Some(levels) = levels else { return n };
    levels.iter().enumerate().filter(|(_, level)| **level > 0).nth(n).map_or(n, |(row, _)| row)
}

/// Row within a batch of the first value that is missing.
fn first_null(levels: &[i16]) -> usize {
    levels.iter().position(|&level| level == 0).unwrap_or(0)
}

/// Puts `null` between `values` where the levels say so.
fn spread<T: Clone>(values: &[T], levels: &[i16], null: T) -> Vec<T> {
    let mut present = values.iter();
    levels
        .iter()
        .map(|&level| if level > 0 { present.next().cloned() } else { None }.unwrap_or_else(|| null.clone()))
        .collect()
}
