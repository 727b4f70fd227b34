//! One column of a row group: pages are encoded and compressed as batches come in.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::UNKNOWN_MS;
use super::columns::{Column, Dictionary, Source};
use super::encode::{IntDictionary, encode_hybrid, encode_run, width_of};

/// ZSTD level of all pages: the fastest of the ordinary ones; higher ones gain little on such numbers.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// What is shared by all columns of a file: buffers and the compression context.
pub(super) struct Scratch {
    compressor: zstd::bulk::Compressor<'static>,
    page: Vec<u8>,
    codes: Vec<u32>,
    longs: Vec<i64>,
    ints: Vec<i32>,
    floats: Vec<f32>,
    levels: Vec<u32>,
}

impl Scratch {
    pub fn new() -> std::io::Result<Self> {
        Ok(Scratch {
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            page: Vec::new(),
            codes: Vec::new(),
            longs: Vec::new(),
            ints: Vec::new(),
            floats: Vec::new(),
            levels: Vec::new(),
        })
    }
}

/// The pages of one column since the last row group.
pub(super) struct Chunk {
    descriptor: ColumnDescPtr,
    pages: TrackedWrite<Vec<u8>>,
    uncompressed: u64,
    rows: u64,
    coded: bool,
    plain: bool,
    dictionary: IntDictionary,
}

impl Chunk {
    pub fn new(descriptor: ColumnDescPtr) -> Self {
        Chunk {
            descriptor,
            pages: TrackedWrite::new(Vec::new()),
            uncompressed: 0,
            rows: 0,
            coded: false,
            plain: false,
            dictionary: IntDictionary::new(),
        }
    }

    /// Appends `rows` rows of `batch` as one page.
    pub fn append<B>(&mut self, column: &Column<B>, batch: &B, rows: usize, scratch: &mut Scratch) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        scratch.page.clear();
        self.coded_or_plain(column, batch, rows, scratch)?;
        self.write_page(rows, scratch)
    }

    fn coded_or_plain<B>(&mut self, column: &Column<B>, batch: &B, rows: usize, scratch: &mut Scratch) -> Result<()> {
        let optional = column.optional;
        match &column.source {
            Source::Constant(_) => self.put_run(rows, optional, scratch),
            Source::Looked { index, codes, dictionary, open_ended } => {
                let last = codes.len().saturating_sub(1);
                if let Some(beyond) = index(batch).iter().find(|&&index| index as usize >= codes.len() && !open_ended) {
                    let name = &column.name;
                    let message = format!("index {beyond} in column {name}, whose table has {} entries", codes.len());
                    return Err(ParquetError::General(message));
                }
                scratch.codes.clear();
                scratch.codes.extend(index(batch).iter().map(|&index| codes[(index as usize).min(last)]));
                self.put_codes(dictionary.count, optional, scratch);
            }
            Source::State(get, dictionary) => {
                scratch.codes.clear();
                scratch.codes.extend(get(batch).iter().map(|&state| u32::from(state)));
                self.put_codes(dictionary.count, optional, scratch);
            }
            Source::F32(get) => self.put_floats(column, get(batch), rows, scratch),
            Source::I32(get) => {
                let values = filled(get(batch), rows, 0, &mut scratch.ints);
                put_levels(optional.then_some(rows), &mut scratch.page);
                if self.dictionary.encode(values, &mut scratch.codes) {
                    self.put_own_codes(scratch);
                } else {
                    self.plain = true;
                    scratch.page.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
            Source::I64(get) => {
                let empty = if column.empty_is_null { UNKNOWN_MS } else { 0 };
                let mut values = std::mem::take(&mut scratch.longs);
                let given = filled(get(batch), rows, empty, &mut values);
                self.put_longs(optional, given, scratch);
                scratch.longs = values;
            }
            Source::Shifted(get, shift) => {
                let mut values = std::mem::take(&mut scratch.longs);
                values.clear();
                values.extend(get(batch).iter().map(|value| value + shift));
                self.put_longs(optional, &values, scratch);
                scratch.longs = values;
            }
        }
        Ok(())
    }

    fn put_run(&mut self, rows: usize, optional: bool, scratch: &mut Scratch) {
        self.coded = true;
        put_levels(optional.then_some(rows), &mut scratch.page);
        scratch.page.push(0);
        encode_run(0, rows, 0, &mut scratch.page);
    }

    /// Codes of a dictionary of `count` entries.
    fn put_codes(&mut self, count: u32, optional: bool, scratch: &mut Scratch) {
        self.coded = true;
        put_levels(optional.then_some(scratch.codes.len()), &mut scratch.page);
        let width = width_of(count.saturating_sub(1));
        scratch.page.push(width);
        encode_hybrid(&scratch.codes, width, &mut scratch.page);
    }

    /// Codes of the dictionary that grows with the column.
    fn put_own_codes(&mut self, scratch: &mut Scratch) {
        self.coded = true;
        let width = width_of((self.dictionary.values().len() as u32).saturating_sub(1));
        scratch.page.push(width);
        encode_hybrid(&scratch.codes, width, &mut scratch.page);
    }

    fn put_longs(&mut self, optional: bool, values: &[i64], scratch: &mut Scratch) {
        let present: Vec<i64>;
        let mut values = values;
        if optional && values.contains(&UNKNOWN_MS) {
            put_null_levels(values.iter().map(|&value| value != UNKNOWN_MS), scratch);
            present = values.iter().copied().filter(|&value| value != UNKNOWN_MS).collect();
            values = &present;
        } else {
            put_levels(optional.then_some(values.len()), &mut scratch.page);
        }
        if self.dictionary.encode(values, &mut scratch.codes) {
            self.put_own_codes(scratch);
        } else {
            self.plain = true;
            scratch.page.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }

    fn put_floats<B>(&mut self, column: &Column<B>, values: &[f32], rows: usize, scratch: &mut Scratch) {
        self.plain = true;
        let mut buffer = std::mem::take(&mut scratch.floats);
        let values = filled(values, rows, 0.0, &mut buffer);
        if column.optional && values.iter().any(|value| value.is_nan()) {
            put_null_levels(values.iter().map(|value| !value.is_nan()), scratch);
            scratch.page.extend(values.iter().filter(|value| !value.is_nan()).flat_map(|value| value.to_le_bytes()));
        } else {
            put_levels(column.optional.then_some(rows), &mut scratch.page);
            scratch.page.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        scratch.floats = buffer;
    }

    fn write_page(&mut self, rows: usize, scratch: &mut Scratch) -> Result<()> {
        let encoding = match self.page_is_coded() {
            true => Encoding::RLE_DICTIONARY,
            false => Encoding::PLAIN,
        };
        let page = Page::DataPage {
            buf: compress(scratch)?,
            num_values: rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let page = CompressedPage::new(page, scratch.page.len());
        let written = SerializedPageWriter::new(&mut self.pages).write_page(page)?;
        self.uncompressed += written.uncompressed_size as u64;
        self.rows += rows as u64;
        Ok(())
    }

    /// Whether the page just put is one of codes: a column never goes back from plain values to codes.
    fn page_is_coded(&self) -> bool {
        self.coded && !self.plain
    }

    /// Ends the row group: the bytes of the column, dictionary first, and what the footer says about them.
    pub fn close<B>(&mut self, column: &Column<B>, scratch: &mut Scratch) -> Result<(Bytes, ColumnCloseResult)> {
        let mut whole = TrackedWrite::new(Vec::new());
        let mut uncompressed = self.uncompressed;
        if self.coded {
            let dictionary = self.dictionary_of(column);
            scratch.page.clear();
            scratch.page.extend(&dictionary.bytes);
            let page = Page::DictionaryPage {
                buf: compress(scratch)?,
                num_values: dictionary.count,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            let page = CompressedPage::new(page, scratch.page.len());
            uncompressed += SerializedPageWriter::new(&mut whole).write_page(page)?.uncompressed_size as u64;
        }
        let mut bytes = whole.into_inner()?;
        let dictionary_length = bytes.len() as i64;
        let pages = std::mem::replace(&mut self.pages, TrackedWrite::new(Vec::new())).into_inner()?;
        bytes.extend(pages);
        let mut encodings = vec![Encoding::RLE];
        encodings.extend(self.coded.then_some(Encoding::RLE_DICTIONARY));
        encodings.extend((self.plain || self.coded).then_some(Encoding::PLAIN));
        let metadata = ColumnChunkMetaData::builder(self.descriptor.clone())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_encodings(encodings)
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_data_page_offset(dictionary_length)
            .set_dictionary_page_offset(self.coded.then_some(0))
            .build()?;
        let closed = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        self.uncompressed = 0;
        self.rows = 0;
        self.coded = false;
        self.plain = false;
        self.dictionary.restart();
        Ok((bytes.into(), closed))
    }

    fn dictionary_of<B>(&self, column: &Column<B>) -> Dictionary {
        match &column.source {
            Source::Constant(dictionary) | Source::State(_, dictionary) | Source::Looked { dictionary, .. } => {
                dictionary.clone()
            }
            Source::I32(_) => Dictionary {
                bytes: self.dictionary.values().iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
                count: self.dictionary.values().len() as u32,
            },
            Source::I64(_) | Source::Shifted(..) => Dictionary {
                bytes: self.dictionary.values().iter().flat_map(|value| value.to_le_bytes()).collect(),
                count: self.dictionary.values().len() as u32,
            },
            Source::F32(_) => Dictionary::default(),
        }
    }
}

fn compress(scratch: &mut Scratch) -> Result<Bytes> {
    let compressed = scratch.compressor.compress(&scratch.page);
    compressed.map(Bytes::from).map_err(|error| ParquetError::External(Box::new(error)))
}

/// `values`, or `rows` times `empty` when there are none.
fn filled<'a, T: Copy>(values: &'a [T], rows: usize, empty: T, buffer: &'a mut Vec<T>) -> &'a [T] {
    if !values.is_empty() {
        return values;
    }
    buffer.clear();
    buffer.resize(rows, empty);
    buffer
}

/// Levels of an optional column whose rows all have a value; nothing for a required column.
fn put_levels(rows: Option<usize>, page: &mut Vec<u8>) {
    let Some(rows) = rows else { return };
    let start = page.len();
    page.extend([0; 4]);
    encode_run(1, rows, 1, page);
    set_length(start, page);
}

/// Levels of an optional column with missing values.
fn put_null_levels(present: impl Iterator<Item = bool>, scratch: &mut Scratch) {
    scratch.levels.clear();
    scratch.levels.extend(present.map(u32::from));
    let start = scratch.page.len();
    scratch.page.extend([0; 4]);
    encode_hybrid(&scratch.levels, 1, &mut scratch.page);
    set_length(start, &mut scratch.page);
}

fn set_length(start: usize, page: &mut [u8]) {
    let length = (page.len() - start - 4) as u32;
    page[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
