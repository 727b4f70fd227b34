//! One thread a file; batches go to it through a bounded channel and come back to be filled again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::batch::{Batch, BatteryBatch, HostBatch, PowerSourceBatch, ServiceBatch, TaskBatch};
use super::columns::{self, Column};
use super::folder::PartialFolder;
use super::pages::{Chunk, Scratch};
use super::{OutputFile, OutputOptions};
use crate::error::{FormatError, Result};

/// Batches that may wait for a thread; more only cost memory.
const QUEUE: usize = 4;

/// Writes the result files of one run into a folder that appears as a whole when [`OutputWriter::finish`] is called.
///
/// Dropping it before leaves nothing behind. Each method for a file takes a batch, sends it to the thread of that file
/// and leaves an empty one in its place (with as many GPUs), whose memory has been used before; a file that is not written takes batches and
/// forgets them.
#[derive(Debug)]
pub struct OutputWriter {
    // Fields drop in this order: threads end before their folder is removed.
    host: Option<FileWriter<HostBatch>>,
    task: Option<FileWriter<TaskBatch>>,
    power_source: Option<FileWriter<PowerSourceBatch>>,
    battery: Option<FileWriter<BatteryBatch>>,
    service: Option<FileWriter<ServiceBatch>>,
    columns: BTreeMap<OutputFile, Vec<String>>,
    folder: PartialFolder,
}

impl OutputWriter {
    /// Starts writing the files of `options` for the folder `target`.
    ///
    /// # Errors
    /// When a chosen column does not exist, or the folder cannot be made or holds other files than results.
    pub fn create(target: &Path, options: &OutputOptions) -> Result<Self> {
        let folder = PartialFolder::create(target)?;
        let mut writer = OutputWriter {
            host: None,
            task: None,
            power_source: None,
            battery: None,
            service: None,
            columns: BTreeMap::new(),
            folder,
        };
        for (file, chosen) in &options.files {
            let start = Start { file: *file, target, folder: writer.folder.path(), chosen: chosen.as_deref(), options };
            let names = &mut writer.columns;
            match file {
                OutputFile::Host => writer.host = Some(start.writer(columns::host_columns(options), names)?),
                OutputFile::Task => writer.task = Some(start.writer(columns::task_columns(options), names)?),
                OutputFile::PowerSource => {
                    writer.power_source = Some(start.writer(columns::power_source_columns(options), names)?);
                }
                OutputFile::Battery => writer.battery = Some(start.writer(columns::battery_columns(options), names)?),
                OutputFile::Service => writer.service = Some(start.writer(columns::service_columns(options), names)?),
            }
        }
        Ok(writer)
    }

    /// Columns of `file` in their order; `None` when it is not written. What is not among them need not be computed.
    pub fn columns(&self, file: OutputFile) -> Option<&[String]> {
        self.columns.get(&file).map(Vec::as_slice)
    }

    /// Whether `column` of `file` is written.
    pub fn writes(&self, file: OutputFile, column: &str) -> bool {
        self.columns(file).is_some_and(|columns| columns.iter().any(|name| name == column))
    }

    /// Writes host rows and empties the batch.
    ///
    /// # Errors
    /// When the vectors differ in length, or writing failed (also that of an earlier batch).
    pub fn host(&mut self, batch: &mut HostBatch) -> Result<()> {
        send(&mut self.host, batch)
    }

    /// Writes task rows and empties the batch.
    ///
    /// # Errors
    /// As [`OutputWriter::host`].
    pub fn task(&mut self, batch: &mut TaskBatch) -> Result<()> {
        send(&mut self.task, batch)
    }

    /// Writes power source rows and empties the batch.
    ///
    /// # Errors
    /// As [`OutputWriter::host`].
    pub fn power_source(&mut self, batch: &mut PowerSourceBatch) -> Result<()> {
        send(&mut self.power_source, batch)
    }

    /// Writes battery rows and empties the batch.
    ///
    /// # Errors
    /// As [`OutputWriter::host`].
    pub fn battery(&mut self, batch: &mut BatteryBatch) -> Result<()> {
        send(&mut self.battery, batch)
    }

    /// Writes service rows and empties the batch.
    ///
    /// # Errors
    /// As [`OutputWriter::host`].
    pub fn service(&mut self, batch: &mut ServiceBatch) -> Result<()> {
        send(&mut self.service, batch)
    }

    /// Completes all files and gives the folder its name; earlier results under that name are replaced.
    ///
    /// # Errors
    /// When writing or renaming failed; then nothing is left behind.
    pub fn finish(self) -> Result<()> {
        let OutputWriter { host, task, power_source, battery, service, columns: _, folder } = self;
        // All threads are joined before the first error is returned, so that the folder can be removed.
        let ends = [close(host), close(task), close(power_source), close(battery), close(service)];
        ends.into_iter().collect::<Result<()>>()?;
        folder.publish()
    }
}

fn send<B: Batch>(writer: &mut Option<FileWriter<B>>, batch: &mut B) -> Result<()> {
    match writer {
        Some(writer) => writer.send(batch),
        None => {
            batch.clear();
            Ok(())
        }
    }
}

fn close<B: Batch>(writer: Option<FileWriter<B>>) -> Result<()> {
    writer.map_or(Ok(()), FileWriter::close)
}

/// What is needed to start the thread of a file.
struct Start<'a> {
    file: OutputFile,
    target: &'a Path,
    folder: &'a Path,
    chosen: Option<&'a [String]>,
    options: &'a OutputOptions,
}

impl Start<'_> {
    fn writer<B: Batch>(
        &self,
        all: Vec<Column<B>>,
        names: &mut BTreeMap<OutputFile, Vec<String>>,
    ) -> Result<FileWriter<B>> {
        let columns = self.choose(all)?;
        names.insert(self.file, columns.iter().map(|column| column.name.clone()).collect());
        FileWriter::start(self, Arc::new(columns))
    }

    /// The chosen columns in their order, then the missing base columns, as the reference orders them.
    fn choose<B>(&self, all: Vec<Column<B>>) -> Result<Vec<Column<B>>> {
        let Some(chosen) = self.chosen else { return Ok(all) };
        let plain = |name: &str| name.replace(' ', "_").to_ascii_lowercase();
        let mut left: Vec<Option<Column<B>>> = all.into_iter().map(Some).collect();
        let known: Vec<String> = left.iter().flatten().map(|column| column.name.clone()).collect();
        let mut columns = Vec::new();
        for name in chosen {
            let Some(index) = known.iter().position(|other| *other == plain(name)) else {
                return Err(FormatError::new(
                    &self.path_in(self.target),
                    format!("'{name}'"),
                    format!("one of {}", known.join(", ")),
                )
                .at("chosen columns")
                .hint("Correct the name in the export settings."));
            };
            columns.extend(left[index].take());
        }
        for base in columns::base_columns(self.file) {
            let index = known.iter().position(|name| name == base);
            columns.extend(index.and_then(|index| left[index].take()));
        }
        Ok(columns)
    }

    fn path_in(&self, folder: &Path) -> PathBuf {
        folder.join(self.file.file_name())
    }
}

/// The caller's end of one file.
#[derive(Debug)]
struct FileWriter<B> {
    columns: Arc<Vec<Column<B>>>,
    path: PathBuf,
    full: Option<SyncSender<B>>,
    empty: Receiver<B>,
    /// Set when the results are not wanted any more, so that the thread leaves what still waits for it.
    abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl<B> std::fmt::Debug for Column<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl<B: Batch> FileWriter<B> {
    fn start(start: &Start<'_>, columns: Arc<Vec<Column<B>>>) -> Result<Self> {
        // Errors name the file as it will be called, not the temporary one.
        let (path, temporary) = (start.path_in(start.target), start.path_in(start.folder));
        let (full, to_write) = sync_channel::<B>(QUEUE);
        let (give_back, empty) = channel::<B>();
        let mut rows = RowWriter::create(start.file, &path, &temporary, columns.clone(), start.options.row_group_rows)?;
        let abandoned = Arc::new(AtomicBool::new(false));
        let given_up = abandoned.clone();
        let thread = std::thread::Builder::new()
            .name(format!("write {}", start.file.name()))
            .spawn(move || {
                for mut batch in to_write {
                    if given_up.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    rows.append(&batch)?;
                    batch.clear();
                    // The caller may be gone or about to go.
                    let _ = give_back.send(batch);
                }
                rows.close()
            })
            .map_err(|error| FormatError::io(&path, "start a thread for", &error))?;
        Ok(FileWriter { columns, path, full: Some(full), empty, abandoned, thread: Some(thread) })
    }

    fn send(&mut self, batch: &mut B) -> Result<()> {
        self.check(batch)?;
        let empty = self.empty.try_recv().unwrap_or_else(|_| batch.like());
        let full = std::mem::replace(batch, empty);
        let sent = self.full.as_ref().is_some_and(|channel| channel.send(full).is_ok());
        if sent { Ok(()) } else { self.join() }
    }

    /// Every written column must have a value a row: a short vector is a mistake of the program.
    fn check(&self, batch: &B) -> Result<()> {
        let rows = batch.rows();
        for column in self.columns.iter() {
            let Some(length) = column.length(batch) else { continue };
            if length != rows && !(length == 0 && column.may_be_empty) {
                return Err(FormatError::new(&self.path, format!("{length} values"), format!("{rows}, one a row"))
                    .at(format!("column {}", column.name))
                    .hint("This is a mistake of the program that fills the columns."));
            }
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        self.join()
    }

    /// Ends the thread and returns what it met.
    fn join(&mut self) -> Result<()> {
        self.full = None;
        let ended = self.thread.take().map_or(Err(None), |thread| thread.join().map_err(|_| None::<FormatError>));
        ended.unwrap_or_else(|_| {
            Err(FormatError::new(&self.path, "a writer that has stopped", "it to run until the end")
                .hint("See the message of its first error."))
        })
    }
}

impl<B> Drop for FileWriter<B> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Dropped before the end: the results are not wanted, nor is an error.
            self.abandoned.store(true, Ordering::Relaxed);
            self.full = None;
            let _ = thread.join();
        }
    }
}

/// The thread's end of one file.
struct RowWriter<B> {
    path: PathBuf,
    file: SerializedFileWriter<File>,
    columns: Arc<Vec<Column<B>>>,
    chunks: Vec<Chunk>,
    scratch: Scratch,
    rows: usize,
    row_group_rows: usize,
}

impl<B: Batch> RowWriter<B> {
    fn create(
        file: OutputFile,
        path: &Path,
        temporary: &Path,
        columns: Arc<Vec<Column<B>>>,
        row_group_rows: usize,
    ) -> Result<Self> {
        let io = |error: std::io::Error| FormatError::io(path, "write", &error).hint(WRITE_HINT);
        let sink = File::create(temporary).map_err(io)?;
        let properties = WriterProperties::builder().set_created_by(format!("opendt {}", env!("CARGO_PKG_VERSION")));
        let properties = Arc::new(properties.set_offset_index_disabled(true).build());
        let writer = columns::schema(file, &columns)
            .and_then(|schema| SerializedFileWriter::new(sink, schema, properties))
            .map_err(|error| failed(path, &error))?;
        let descriptor = writer.schema_descr();
        let chunks = descriptor.columns().iter().map(|column| Chunk::new(column.clone())).collect();
        let scratch = Scratch::new().map_err(io)?;
        Ok(RowWriter { path: path.to_path_buf(), file: writer, columns, chunks, scratch, rows: 0, row_group_rows })
    }

    fn append(&mut self, batch: &B) -> Result<()> {
        let rows = batch.rows();
        for (chunk, column) in self.chunks.iter_mut().zip(self.columns.iter()) {
            chunk.append(column, batch, rows, &mut self.scratch).map_err(|error| failed(&self.path, &error))?;
        }
        self.rows += rows;
        if self.rows >= self.row_group_rows {
            self.end_row_group().map_err(|error| failed(&self.path, &error))?;
        }
        Ok(())
    }

    fn end_row_group(&mut self) -> parquet::errors::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for (chunk, column) in self.chunks.iter_mut().zip(self.columns.iter()) {
            let (bytes, closed) = chunk.close(column, &mut self.scratch)?;
            group.append_column(&bytes, closed)?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        let ended = self.end_row_group().and_then(|()| self.file.close());
        ended.map(drop).map_err(|error| failed(&self.path, &error))
    }
}

const WRITE_HINT: &str = "Check the free space and the permissions of the output folder.";

fn failed(path: &Path, error: &ParquetError) -> FormatError {
    FormatError::new(path, error.to_string(), "to be able to write it").hint(WRITE_HINT)
}
