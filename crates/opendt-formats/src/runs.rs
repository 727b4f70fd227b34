//! The identifier column of the fragments file as runs of equal identifiers.
//!
//! A trace repeats a task's identifier for each of its fragments, and Parquet stores that as a dictionary and runs of
//! positions in it. Reading the runs costs a few operations a *task*, where decoding would cost a string a *fragment*.
//! Pages that are stored in another way go through the ordinary decoder.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use opendt_engine::workload::TaskIds;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::FileReader;

use crate::error::{FormatError, Result};
use crate::hybrid::{bad, for_each_run, split_levels};
use crate::kinds::Kind;
use crate::table::{Column, unpanicked};

/// Values decoded at a time from pages without a dictionary.
const BATCH_ROWS: usize = 1 << 13;

/// What identifiers are expected to be, in words.
pub(crate) const ID_TYPES: &str = "identifiers as int32, int64 or text";

/// A column of identifiers, run by run.
#[derive(Debug)]
pub(crate) struct IdRuns {
    /// Identifiers; the same may occur under several keys (one a row group).
    pub keys: TaskIds,
    /// Key and number of rows of each run, in file order.
    pub runs: Vec<(u32, u32)>,
}

/// Reads a column of identifiers as runs.
pub(crate) fn read_id_runs(column: &Column<'_>) -> Result<IdRuns> {
    match column.kind {
        Kind::I32 => int_runs::<Int32Type>(column, |v| i64::from(*v), 4),
        Kind::U32 => int_runs::<Int32Type>(column, |v| i64::from(*v as u32), 4),
        Kind::I64 { divisor: 1 } => int_runs::<Int64Type>(column, |v| *v, 8),
        Kind::Text => {
            let mut reader = RunReader::<ByteArrayType, _>::new(column, text_dictionary, ByteArray::clone);
            reader.read()?;
            let texts = reader.keys.iter().map(|key| std::str::from_utf8(key.data()).map(Box::from));
            let keys = texts.collect::<std::result::Result<Vec<Box<str>>, _>>().map_err(|_| {
                FormatError::new(&column.table.path, "bytes that are not UTF-8", "text in UTF-8")
                    .at(format!("column {}", column.name))
                    .hint("Write the identifiers as text.")
            })?;
            Ok(IdRuns { keys: TaskIds::Text(keys), runs: reader.runs })
        }
        _ => Err(column.wrong_type(ID_TYPES)),
    }
}

fn int_runs<T: DataType>(column: &Column<'_>, widen: fn(&T::T) -> i64, width: usize) -> Result<IdRuns> {
    let dictionary = move |data: &Bytes, count: usize| -> Option<Vec<i64>> {
        let chunks = data.get(..count.checked_mul(width)?)?.chunks_exact(width);
        if width == 4 {
            // Through the column's own type, so that unsigned stays unsigned.
            let values = chunks.map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            let unsigned = column.kind == Kind::U32;
            return Some(values.map(|v| if unsigned { i64::from(v as u32) } else { v }).collect());
        }
        Some(chunks.map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default())).collect())
    };
    let mut reader = RunReader::<T, i64>::new(column, dictionary, widen);
    reader.read()?;
    Ok(IdRuns { keys: TaskIds::Int(reader.keys), runs: reader.runs })
}

/// Splits a dictionary page of byte strings, each behind its length.
fn text_dictionary(data: &Bytes, count: usize) -> Option<Vec<ByteArray>> {
    let mut keys = Vec::with_capacity(count.min(data.len()));
    let mut at = 0usize;
    for _ in 0..count {
        let length = u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?) as usize;
        at += 4;
        let end = at.checked_add(length).filter(|&end| end <= data.len())?;
        keys.push(ByteArray::from(data.slice(at..end)));
        at = end;
    }
    Some(keys)
}

type Dictionary<'a, K> = Box<dyn Fn(&Bytes, usize) -> Option<Vec<K>> + 'a>;

/// Collects runs over all row groups of one column.
struct RunReader<'a, T: DataType, K> {
    column: &'a Column<'a>,
    dictionary: Dictionary<'a, K>,
    key_of: fn(&T::T) -> K,
    keys: Vec<K>,
    runs: Vec<(u32, u32)>,
    rows: usize,
    /// Key of each value met outside dictionaries.
    interned: HashMap<Vec<u8>, u32>,
}

impl<'a, T: DataType, K> RunReader<'a, T, K>
where
    K: Clone + PartialEq + AsKey,
{
    fn new(
        column: &'a Column<'a>,
        dictionary: impl Fn(&Bytes, usize) -> Option<Vec<K>> + 'a,
        key_of: fn(&T::T) -> K,
    ) -> Self {
        RunReader {
            column,
            dictionary: Box::new(dictionary),
            key_of,
            keys: Vec::new(),
            runs: Vec::new(),
            rows: 0,
            interned: HashMap::new(),
        }
    }

    fn read(&mut self) -> Result<()> {
        let table = self.column.table;
        for (group, rows) in table.groups() {
            let end = self.rows + rows;
            let pages = unpanicked(|| table.reader.get_row_group(group)?.get_column_page_reader(self.column.leaf));
            let outcome = pages.and_then(|pages| unpanicked(|| self.read_group(pages, end)));
            match outcome {
                Ok(None) => self.column.check_rows(self.rows, end)?,
                Ok(Some(null_row)) => {
                    return Err(table
                        .error_at(null_row, self.column.name, "no value (null)", "the identifier of a task")
                        .hint("Fill in the value or drop the row."));
                }
                Err(error) => return Err(table.damaged(format!("column {}: {error}", self.column.name))),
            }
        }
        Ok(())
    }

    /// Reads one row group; the row of a null when there is one.
    fn read_group(&mut self, mut pages: Box<dyn PageReader>, end: usize) -> ParquetResult<Option<usize>> {
        let mut dictionary_page: Option<Page> = None;
        let mut known: Range<usize> = 0..0;
        while self.rows < end
            && let Some(page) = pages.get_next_page()?
        {
            if let Page::DictionaryPage { buf, num_values, .. } = &page {
                let keys = (self.dictionary)(buf, *num_values as usize).ok_or_else(|| bad("a short dictionary"))?;
                known = self.keys.len()..self.keys.len() + keys.len();
                self.keys.extend(keys);
                dictionary_page = Some(page);
                continue;
            }
            let coded = matches!(page.encoding(), Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
            if !coded || dictionary_page.is_none() {
                let rest = Replay { first: dictionary_page.into_iter().chain([page]).collect(), rest: pages };
                return self.read_plain(rest, end);
            }
            if let Some(null_row) = self.read_coded_page(&page, &known, end)? {
                return Ok(Some(null_row));
            }
        }
        Ok(None)
    }

    /// Reads a page of positions in the dictionary.
    fn read_coded_page(&mut self, page: &Page, known: &Range<usize>, end: usize) -> ParquetResult<Option<usize>> {
        let rows = page.num_values() as usize;
        if self.rows + rows > end {
            return Err(bad("more rows than the footer says"));
        }
        let (levels, values) = split_levels(page, self.column.descriptor().max_def_level())?;
        if let Some(levels) = levels {
            let mut row = self.rows;
            let mut null_row = None;
            for_each_run(&levels, 1, rows, |level, count| {
                if level == 0 && null_row.is_none() {
                    null_row = Some(row);
                }
                row += count;
                true
            })
            .ok_or_else(|| bad("short levels"))?;
            if null_row.is_some() {
                return Ok(null_row);
            }
        }
        let width = *values.first().ok_or_else(|| bad("an empty page"))?;
        let inside = |position: u32| (position as usize) < known.len();
        for_each_run(&values[1..], width, rows, |position, count| {
            inside(position) && {
                self.push(known.start as u32 + position, count as u32);
                true
            }
        })
        .ok_or_else(|| bad("positions outside the dictionary"))?;
        Ok(None)
    }

    /// Reads what remains of a row group with the ordinary decoder.
    fn read_plain(&mut self, pages: Replay, end: usize) -> ParquetResult<Option<usize>> {
        let descriptor = self.column.table.reader.metadata().file_metadata().schema_descr().column(self.column.leaf);
        let mut reader = ColumnReaderImpl::<T>::new(descriptor, Box::new(pages));
        let (mut values, mut levels) = (Vec::with_capacity(BATCH_ROWS), Vec::new());
        while self.rows < end {
            values.clear();
            levels.clear();
            let (rows, ..) = reader.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values)?;
            if rows == 0 {
                break;
            }
            if values.len() < rows {
                let null = levels.iter().position(|&level| level == 0).unwrap_or(0);
                return Ok(Some(self.rows + null));
            }
            for value in &values {
                let key = (self.key_of)(value);
                match self.runs.last_mut() {
                    Some((last, count)) if self.keys[*last as usize] == key => {
                        *count += 1;
                        self.rows += 1;
                    }
                    _ => {
                        let index = self.intern(key);
                        self.push(index, 1);
                    }
                }
            }
        }
        Ok(None)
    }

    fn intern(&mut self, key: K) -> u32 {
        let next = self.keys.len() as u32;
        let index = *self.interned.entry(key.as_key()).or_insert(next);
        if index == next {
            self.keys.push(key);
        }
        index
    }

    fn push(&mut self, key: u32, count: u32) {
        self.rows += count as usize;
        match self.runs.last_mut() {
            Some((last, length)) if *last == key => *length += count,
            _ => self.runs.push((key, count)),
        }
    }
}

/// A value as bytes for a hash table.
trait AsKey {
    fn as_key(&self) -> Vec<u8>;
}

impl AsKey for i64 {
    fn as_key(&self) -> Vec<u8> {
        self.to_le_bytes().to_vec()
    }
}

impl AsKey for ByteArray {
    fn as_key(&self) -> Vec<u8> {
        self.data().to_vec()
    }
}

/// Gives some pages again and then the rest.
struct Replay {
    first: VecDeque<Page>,
    rest: Box<dyn PageReader>,
}

impl Iterator for Replay {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Replay {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        match self.first.pop_front() {
            Some(page) => Ok(Some(page)),
            None => self.rest.get_next_page(),
        }
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        let Some(page) = self.first.front() else { return self.rest.peek_next_page() };
        Ok(Some(PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        match self.first.pop_front() {
            Some(_) => Ok(()),
            None => self.rest.skip_next_page(),
        }
    }
}
