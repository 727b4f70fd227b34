//! Every version of the workload format becomes the same columns.

mod common;

use common::*;
use opendt_engine::workload::{TaskIds, Usage, Workload};
use opendt_formats::{LoadedWorkload, read_workload};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

fn read(tasks: &Columns, fragments: &Columns) -> LoadedWorkload {
    read_workload(workload(tasks, fragments).path()).unwrap()
}

fn expected() -> Workload {
    Workload {
        ids: TaskIds::Int(vec![10, 12, 11]),
        names: vec![],
        submission_ms: vec![1_000, 2_000, 3_000],
        duration_ms: vec![60_000; 3],
        cpu_count: vec![1, 4, 2],
        cpu_capacity_mhz: vec![1_000.0, 4_000.0, 2_000.0],
        memory_mib: vec![1, 100, 2],
        gpu_count: vec![],
        gpu_capacity_mhz: vec![],
        gpu_memory_mib: vec![],
        deferrable: vec![],
        deadline_ms: vec![],
        slowdown: vec![],
        pinned: vec![],
        parent_offset: vec![],
        parents: vec![],
        edge_mib: vec![],
        fragment_offset: vec![0, 2, 4, 5],
        fragment_duration_ms: vec![100, 101, 200, 201, 300],
        fragment_cpu_mhz: Usage::F32(vec![1.0, 1.5, 2.0, 2.5, 3.0]),
        fragment_gpu_mhz: None,
    }
}

#[test]
fn current_names_sorted_and_grouped() {
    let loaded = read(&tasks(), &fragments());
    assert_eq!(loaded, LoadedWorkload { workload: expected(), dropped_tasks: 0 });
}

#[test]
fn text_identifiers() {
    let tasks = tasks().set("required binary id (STRING)", texts(["10", "11", "12"]));
    let fragments = fragments().set("optional binary id (STRING)", texts(["10", "12", "12", "11", "10"]));
    let ids = ["10", "12", "11"].map(Box::from).to_vec();
    assert_eq!(read(&tasks, &fragments).workload, Workload { ids: TaskIds::Text(ids), ..expected() });
}

#[test]
fn wider_and_narrower_types() {
    let tasks = tasks()
        .set("optional int64 id", i64s([10, 11, 12]))
        .set("optional int64 submission_time (TIMESTAMP(MICROS,true))", i64s([1_000_999, 3_000_000, 2_000_000]))
        .set("optional double duration", f64s([60_000.0; 3]))
        .set("optional int32 cpu_count (INTEGER(8,false))", i32s([1, 2, 4]))
        .set("optional float cpu_capacity", f32s([1_000.0, 2_000.0, 4_000.0]))
        .set("optional int32 mem_capacity", i32s([1_499, 1_500, 100_000]));
    let fragments = fragments()
        .set("optional int32 id (INTEGER(32,false))", i32s([10, 12, 12, 11, 10]))
        .set("optional int32 duration", i32s([100, 200, 201, 300, 101]))
        .set("optional float cpu_usage", f32s([1.0, 2.0, 2.5, 3.0, 1.5]));
    assert_eq!(read(&tasks, &fragments).workload, expected());
}

#[test]
fn names_of_older_versions() {
    let tasks = Columns::default()
        .set("required int32 id", i32s([10, 11, 12]))
        .set("required int64 submissionTime", i64s([1_000, 3_000, 2_000]))
        .set("required int64 duration", i64s([60_000; 3]))
        .set("required int32 maxCores", i32s([1, 2, 4]))
        .set("required double cpu_capacity", f64s([1_000.0, 2_000.0, 4_000.0]))
        .set("required int64 requiredMemory", i64s([1_499, 1_500, 100_000]));
    assert_eq!(read(&tasks, &fragments()).workload, expected());
}

#[test]
fn first_version_with_its_own_files() {
    let dir = TempDir::new();
    tasks()
        .without("submission_time")
        .without("duration")
        .set("required int64 start_time (TIMESTAMP(MILLIS,true))", i64s([1_000, 3_000, 2_000]))
        .set("required int64 stop_time (TIMESTAMP(MILLIS,true))", i64s([61_000, 63_000, 62_000]))
        .write(&dir.path().join("meta.parquet"));
    fragments()
        .set("required int64 timestamp (TIMESTAMP(MILLIS,true))", i64s([0; 5]))
        .set("required int32 cpu_count", i32s([1; 5]))
        .write(&dir.path().join("trace.parquet"));
    assert_eq!(read_workload(dir.path()).unwrap().workload, expected());
}

#[test]
fn every_way_to_store_identifiers() {
    let tasks = tasks().set("required binary id (STRING)", texts(["10", "11", "12"]));
    let values = Values::Text((0..20_000).map(|row| Some((10 + row / 7_000).to_string())).collect());
    let fragments = Columns::default()
        .set("optional binary id (STRING)", values)
        .set("required int64 duration", i64s(0..20_000))
        .set("required double cpu_usage", f64s((0..20_000).map(f64::from)));
    let plain = || WriterProperties::builder().set_dictionary_enabled(false);
    let variants = [
        WriterProperties::builder(),
        WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0).set_data_page_row_count_limit(999),
        plain().set_compression(Compression::SNAPPY),
        plain()
            .set_encoding(Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding("id".into(), Encoding::DELTA_BYTE_ARRAY)
            .set_column_encoding("cpu_usage".into(), Encoding::BYTE_STREAM_SPLIT),
        // A dictionary that fills up: the column chunk goes on without it.
        WriterProperties::builder()
            .set_dictionary_page_size_limit(8)
            .set_data_page_row_count_limit(500)
            .set_compression(Compression::ZSTD(ZstdLevel::default())),
    ];
    for properties in variants {
        let dir = TempDir::new();
        tasks.write(&dir.path().join("tasks.parquet"));
        fragments.write_with(&dir.path().join("fragments.parquet"), properties.build());
        let workload = read_workload(dir.path()).unwrap().workload;
        assert_eq!(workload.fragment_offset, [0, 7_000, 13_000, 20_000]);
        let moved: Vec<u32> = (0..7_000).chain(14_000..20_000).chain(7_000..14_000).collect();
        assert_eq!(workload.fragment_duration_ms, moved);
        assert_eq!(workload.fragment_cpu_mhz, Usage::F32(moved.iter().map(|&ms| ms as f32).collect()));
    }
}

#[test]
fn optional_columns_and_their_gaps() {
    let tasks = tasks()
        .set("optional binary name (STRING)", Values::Text(vec![None, Some("second".into()), None]))
        .set("optional int32 gpu_count", Values::I32(vec![None, Some(2), None]))
        .set("optional double gpu_capacity", Values::F64(vec![None, Some(500.0), None]))
        .set("optional boolean deferrable", Values::Bool(vec![Some(true), None, Some(false)]))
        .set("optional int64 deadline", Values::I64(vec![None, Some(9_000), Some(-1)]));
    let fragments = fragments().set("optional double gpu_usage", Values::F64(vec![None, None, Some(7.5), None, None]));
    let workload = read(&tasks, &fragments).workload;
    assert_eq!(workload.names, ["", "", "second"].map(Box::from));
    assert_eq!((workload.gpu_count, workload.gpu_capacity_mhz), (vec![0, 0, 2], vec![0.0, 0.0, 500.0]));
    assert_eq!((workload.deferrable, workload.deadline_ms), (vec![true, false, false], vec![-1, -1, 9_000]));
    assert_eq!(workload.fragment_gpu_mhz, Some(Usage::F32(vec![0.0, 0.0, 0.0, 7.5, 0.0])));
}

#[test]
fn nature_of_the_2025_version() {
    let tasks = tasks().set("optional binary nature (STRING)", texts(["deferrable", "interactive", "Deferrable"]));
    assert_eq!(read(&tasks, &fragments()).workload.deferrable, [true, true, false]);
}

#[test]
fn usage_stays_exact() {
    let fragments = fragments().set("required double cpu_usage", f64s([1.0, 2.0, 2.5, 0.1, 1.5]));
    assert_eq!(read(&tasks(), &fragments).workload.fragment_cpu_mhz, Usage::F64(vec![1.0, 1.5, 2.0, 2.5, 0.1]));
}

#[test]
fn equal_submissions_keep_file_order() {
    let tasks = tasks().set("required int64 submission_time", i64s([5, 5, 5]));
    assert_eq!(read(&tasks, &fragments()).workload.ids, TaskIds::Int(vec![10, 11, 12]));
}

#[test]
fn tasks_without_fragments_are_dropped_and_counted() {
    let fragments = fragments().set("required int32 id", i32s([10, 12, 12, 12, 10]));
    let loaded = read(&tasks(), &fragments);
    assert_eq!((loaded.workload.ids, loaded.dropped_tasks), (TaskIds::Int(vec![10, 12]), 1));
}

#[test]
fn parents_and_children_are_united() {
    // 11 waits for 10 twice over, 12 for 10 by its own column; by order of submission 10, 12, 11 are 0, 1, 2.
    let tasks = tasks()
        .set("optional group parents", lists([&[], &[10], &[10]]))
        .set("optional group children", lists([&[11], &[], &[11]]));
    let workload = read(&tasks, &fragments()).workload;
    assert_eq!(
        (workload.parents_of(0), workload.parents_of(1), workload.parents_of(2)),
        ([].as_slice(), [0].as_slice(), [0, 1].as_slice())
    );
}

#[test]
fn a_parent_without_fragments_counts_as_completed() {
    let tasks = tasks().set("optional group parents", lists([&[], &[12], &[10]]));
    let fragments = fragments().set("required int32 id", i32s([10, 11, 11, 11, 10]));
    let loaded = read(&tasks, &fragments);
    assert_eq!((loaded.dropped_tasks, loaded.workload.parents), (1, vec![]));
}

#[test]
fn columns_beyond_opendc() {
    // By order of submission 10, 12, 11; the edge 10 -> 11 is named from both ends, its data by the child alone.
    let tasks = tasks()
        .set("optional binary pinned (STRING)", texts(["", "H01", "C02"]))
        .set("optional double slowdown", Values::F64(vec![None, Some(2.5), Some(1.0)]))
        .set("optional group parents", lists([&[], &[12, 10], &[10]]))
        .set("optional group children", lists([&[11], &[], &[]]))
        .set("optional group edge_mib", number_lists([&[], &[7.5, 0.5], &[3.0]]));
    let workload = read(&tasks, &fragments()).workload;
    assert_eq!(workload.pinned, ["", "C02", "H01"].map(Box::from));
    assert_eq!(workload.slowdown, [1.0, 1.0, 2.5]);
    assert_eq!((workload.parents_of(1), workload.parents_of(2)), ([0].as_slice(), [0, 1].as_slice()));
    assert_eq!(workload.edge_mib, [3.0, 0.5, 7.5]);
}

#[test]
fn the_data_of_a_dropped_parent_is_dropped() {
    let tasks = tasks()
        .set("optional group parents", lists([&[], &[12, 10], &[10]]))
        .set("optional group edge_mib", number_lists([&[], &[7.5, 0.5], &[3.0]]));
    let fragments = fragments().set("required int32 id", i32s([10, 11, 11, 11, 10]));
    let workload = read(&tasks, &fragments).workload;
    assert_eq!((workload.parents, workload.edge_mib), (vec![0], vec![0.5]));
}

#[test]
fn columns_that_say_nothing_are_left_out() {
    let tasks = tasks()
        .set("optional binary pinned (STRING)", texts(["", "", ""]))
        .set("optional double slowdown", f64s([1.0; 3]));
    assert_eq!(read(&tasks, &fragments()).workload, expected());
    let sends_nothing = tasks
        .set("optional group parents", lists([&[], &[10], &[]]))
        .set("optional group edge_mib", number_lists([&[], &[0.0], &[]]));
    assert_eq!(read(&sends_nothing, &fragments()).workload.edge_mib, Vec::<f64>::new());
}
