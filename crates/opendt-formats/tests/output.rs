//! The result files: schemas as the reference's, values as given, and a folder that appears whole or not at all.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use common::TempDir;
use opendt_engine::workload::TaskIds;
use opendt_formats::output::{
    BatteryBatch, ClusterPart, GpuColumns, HostBatch, HostInfo, NO_HOST, OutputFile, OutputOptions, OutputWriter,
    PowerSourceBatch, ServiceBatch, TaskBatch, TaskTable, UNKNOWN_MS,
};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::printer::print_schema;

fn host(name: &str, cluster: &str, core_count: u32) -> HostInfo {
    HostInfo { name: name.into(), cluster: cluster.into(), core_count, memory_mib: 1_000 }
}

fn options() -> OutputOptions {
    OutputOptions {
        start_epoch_ms: 1_000_000,
        hosts: vec![host("H01", "C01", 4), host("H01-0", "C01", 4), host("H02", "C02", 8)],
        tasks: Arc::new(TaskTable {
            ids: TaskIds::Int(vec![7, 3]),
            names: vec![],
            memory_mib: vec![100, 200],
            cpu_count: vec![1, 2],
            gpu_count: vec![],
            submission_ms: vec![0, 500],
        }),
        power_sources: vec![ClusterPart { name: "Grid".into(), cluster: "C01".into() }],
        batteries: vec![ClusterPart { name: "Battery".into(), cluster: "C01".into() }],
        ..OutputOptions::default()
    }
}

fn host_batch(rows: usize, first: usize) -> HostBatch {
    let number = |row: usize| (first + row) as f32 / 2.0;
    let long = |row: usize| (first + row) as i64;
    let floats = || (0..rows).map(number).collect::<Vec<_>>();
    let longs = || (0..rows).map(long).collect::<Vec<_>>();
    HostBatch {
        timestamp_ms: longs(),
        host: (0..rows).map(|row| (row % 3) as u32).collect(),
        tasks_running: (0..rows).map(|row| (row % 2) as i32).collect(),
        cpu_capacity_mhz: floats(),
        cpu_usage_mhz: floats(),
        cpu_demand_mhz: floats(),
        cpu_utilization_ratio: floats(),
        cpu_time_active_ms: longs(),
        cpu_time_idle_ms: vec![30_000; rows],
        cpu_time_steal_ms: (0..rows).map(|row| -long(row)).collect(),
        power_draw_w: floats(),
        energy_usage_j: floats(),
        embodied_carbon_g: floats(),
        uptime_ms: longs(),
        downtime_ms: vec![0; rows],
        ..HostBatch::default()
    }
}

fn task_batch() -> TaskBatch {
    TaskBatch {
        timestamp_ms: vec![0, 0, 30_000],
        task: vec![0, 1, 1],
        host: vec![NO_HOST, 2, 0],
        cpu_limit_mhz: vec![0.0, 10.0, 20.0],
        cpu_usage_mhz: vec![0.0, 1.5, 2.5],
        cpu_demand_mhz: vec![0.0, 2.5, 3.5],
        cpu_time_active: vec![0, 1, 2],
        cpu_time_idle: vec![0, -1, -2],
        cpu_time_steal: vec![0; 3],
        uptime_ms: vec![0, 30, 60],
        downtime_ms: vec![0; 3],
        num_failures: vec![0; 3],
        num_pauses: vec![0, 0, 1],
        schedule_time_ms: vec![UNKNOWN_MS, 5, 5],
        finish_time_ms: vec![UNKNOWN_MS; 3],
        state: vec![0, 2, 5],
        ..TaskBatch::default()
    }
}

fn open(dir: &Path, file: OutputFile) -> SerializedFileReader<File> {
    SerializedFileReader::new(File::open(dir.join(file.file_name())).unwrap()).unwrap()
}

fn rows(dir: &Path, file: OutputFile) -> Vec<Row> {
    open(dir, file).get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn column(rows: &[Row], name: &str) -> Vec<Field> {
    let find = |row: &Row| row.get_column_iter().find(|(other, _)| *other == name).unwrap().1.clone();
    rows.iter().map(find).collect()
}

fn texts(values: &[&str]) -> Vec<Field> {
    values.iter().map(|value| Field::Str((*value).to_string())).collect()
}

fn names(dir: &Path, file: OutputFile) -> Vec<String> {
    let reader = open(dir, file);
    reader.metadata().file_metadata().schema().get_fields().iter().map(|field| field.name().to_string()).collect()
}

fn schema_of(options: &OutputOptions, file: OutputFile) -> String {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    OutputWriter::create(&target, options).unwrap().finish().unwrap();
    let mut text = Vec::new();
    print_schema(&mut text, open(&target, file).metadata().file_metadata().schema());
    String::from_utf8(text).unwrap()
}

#[test]
fn schemas_are_those_of_the_reference() {
    let golden = include_str!("golden/output_schemas.txt");
    let options = OutputOptions { gpus_per_host: 2, ..options() };
    let ours: String = OutputFile::ALL.iter().map(|&file| schema_of(&options, file)).collect();
    assert_eq!(ours, golden);
}

#[test]
fn identifiers_decide_the_type_of_task_id() {
    let with = |ids: TaskIds| {
        let tasks = TaskTable { ids, ..options().tasks.as_ref().clone() };
        schema_of(&OutputOptions { tasks: Arc::new(tasks), ..options() }, OutputFile::Task)
    };
    assert!(with(TaskIds::Int(vec![1, 2])).contains("REQUIRED INT32 task_id;"));
    assert!(with(TaskIds::Int(vec![1, 1 << 40])).contains("REQUIRED INT64 task_id;"));
    assert!(with(TaskIds::Text(vec!["a".into(), "b".into()])).contains("REQUIRED BYTE_ARRAY task_id (STRING);"));
}

#[test]
fn host_values_over_several_batches_and_row_groups() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    let options = OutputOptions { row_group_rows: 5_000, ..options() };
    let mut writer = OutputWriter::create(&target, &options).unwrap();
    // More distinct values than a dictionary takes, so that columns go on without it.
    for first in (0..9_000).step_by(1_000) {
        let mut batch = host_batch(1_000, first);
        writer.host(&mut batch).unwrap();
        assert_eq!(batch.rows(), 0);
    }
    writer.finish().unwrap();
    assert_eq!(open(&target, OutputFile::Host).num_row_groups(), 2);
    let rows = rows(&target, OutputFile::Host);
    assert_eq!(rows.len(), 9_000);
    for (row, values) in rows.iter().enumerate() {
        let (long, float) = (row as i64, row as f32 / 2.0);
        let host = row % 1_000 % 3;
        let expected = [
            ("timestamp", Field::Long(long)),
            ("timestamp_absolute", Field::Long(long + 1_000_000)),
            ("host_name", Field::Str(["H01", "H01-0", "H02"][host].into())),
            ("cluster_name", Field::Str(["C01", "C01", "C02"][host].into())),
            ("core_count", Field::Int([4, 4, 8][host])),
            ("mem_capacity", Field::Long(1_000)),
            ("tasks_terminated", Field::Int(0)),
            ("tasks_running", Field::Int((row % 1_000 % 2) as i32)),
            ("tasks_error", Field::Int(0)),
            ("cpu_usage", Field::Float(float)),
            ("cpu_time_active", Field::Long(long)),
            ("cpu_time_idle", Field::Long(30_000)),
            ("cpu_time_steal", Field::Long(-((row % 1_000) as i64) - (row - row % 1_000) as i64)),
            ("cpu_time_lost", Field::Long(0)),
            ("energy_usage", Field::Float(float)),
            ("boot_time", Field::Null),
        ];
        for (name, field) in expected {
            let found = values.get_column_iter().find(|(other, _)| *other == name).unwrap().1;
            assert_eq!(*found, field, "row {row}, {name}");
        }
    }
}

#[test]
fn task_values_with_gaps() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    let mut writer = OutputWriter::create(&target, &options()).unwrap();
    writer.task(&mut task_batch()).unwrap();
    writer.finish().unwrap();
    let rows = rows(&target, OutputFile::Task);
    assert_eq!(column(&rows, "task_id"), [7, 3, 3].map(Field::Int));
    assert_eq!(column(&rows, "task_name"), texts(&["", "", ""]));
    assert_eq!(column(&rows, "host_name"), texts(&["", "H02", "H01"]));
    assert_eq!(column(&rows, "mem_capacity"), [100, 200, 200].map(Field::Long));
    assert_eq!(column(&rows, "cpu_time_idle"), [0, -1, -2].map(Field::Long));
    assert_eq!(column(&rows, "gpu_count"), [0; 3].map(Field::Int));
    assert_eq!(column(&rows, "gpu_usage"), [0.0; 3].map(Field::Float));
    assert_eq!(column(&rows, "schedule_time"), [Field::Null, Field::Long(5), Field::Long(5)]);
    assert_eq!(column(&rows, "submission_time"), [0, 500, 500].map(Field::Long));
    assert_eq!(column(&rows, "finish_time"), [Field::Null, Field::Null, Field::Null]);
    assert_eq!(column(&rows, "task_state"), texts(&["CREATED", "RUNNING", "COMPLETED"]));
    assert_eq!(column(&rows, "scheduling_delay"), [0; 3].map(Field::Long));
}

#[test]
fn gpus_of_hosts_with_fewer_are_null_and_batches_keep_their_shape() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    let mut writer = OutputWriter::create(&target, &OutputOptions { gpus_per_host: 1, ..options() }).unwrap();
    let gpu = GpuColumns {
        capacity_mhz: vec![500.0, f32::NAN],
        usage_mhz: vec![1.0, f32::NAN],
        demand_mhz: vec![2.0, f32::NAN],
        utilization_ratio: vec![0.5, f32::NAN],
        time_active_ms: vec![3, UNKNOWN_MS],
        time_idle_ms: vec![4, UNKNOWN_MS],
        time_steal_ms: vec![5, UNKNOWN_MS],
        time_lost_ms: vec![6, UNKNOWN_MS],
        power_draw_w: vec![7.0, f32::NAN],
    };
    let mut batch = HostBatch { gpus: vec![gpu], ..host_batch(2, 0) };
    writer.host(&mut batch).unwrap();
    assert_eq!(batch.gpus.len(), 1);
    writer.finish().unwrap();
    let rows = rows(&target, OutputFile::Host);
    assert_eq!(column(&rows, "gpu_capacity_0"), [Field::Float(500.0), Field::Null]);
    assert_eq!(column(&rows, "gpu_time_lost_0"), [Field::Long(6), Field::Null]);
    assert_eq!(column(&rows, "gpu_power_draw_0"), [Field::Float(7.0), Field::Null]);
}

#[test]
fn the_smaller_files() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    let mut writer = OutputWriter::create(&target, &options()).unwrap();
    let mut sources = PowerSourceBatch {
        timestamp_ms: vec![30],
        source: vec![0],
        power_draw_w: vec![1.0],
        energy_usage_j: vec![2.0],
        carbon_intensity_g_per_kwh: vec![3.0],
        carbon_emission_g: vec![4.0],
    };
    let mut batteries = BatteryBatch {
        timestamp_ms: vec![30, 60],
        battery: vec![0, 0],
        power_draw_w: vec![1.0, 0.0],
        energy_usage_j: vec![2.0, 0.0],
        embodied_carbon_g: vec![f32::NAN, 0.0],
        charge_j: vec![4.0, 4.0],
        capacity_j: vec![5.0, 5.0],
        state: vec![2, 0],
    };
    let one = || vec![1];
    let mut service = ServiceBatch {
        timestamp_ms: vec![30],
        hosts_up: vec![3],
        hosts_down: one(),
        tasks_total: one(),
        tasks_pending: one(),
        tasks_active: one(),
        tasks_completed: one(),
        tasks_terminated: one(),
    };
    writer.power_source(&mut sources).unwrap();
    writer.battery(&mut batteries).unwrap();
    writer.service(&mut service).unwrap();
    writer.finish().unwrap();
    let sources = rows(&target, OutputFile::PowerSource);
    assert_eq!(column(&sources, "source_name"), texts(&["Grid"]));
    assert_eq!(column(&sources, "carbon_emission"), [Field::Float(4.0)]);
    let batteries = rows(&target, OutputFile::Battery);
    assert_eq!(column(&batteries, "battery_state"), texts(&["DISCHARGING", "CHARGING"]));
    assert!(matches!(column(&batteries, "embodied_carbon_emission")[0], Field::Float(value) if value.is_nan()));
    assert_eq!(column(&rows(&target, OutputFile::Service), "hosts_up"), [Field::Int(3)]);
}

#[test]
fn chosen_columns_come_first_and_keys_are_always_there() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    let chosen = |names: &[&str]| Some(names.iter().map(|name| (*name).to_string()).collect());
    let files = vec![
        (OutputFile::Host, chosen(&["Power Draw", "CPU_USAGE", "timestamp"])),
        (OutputFile::Service, chosen(&["hosts up"])),
    ];
    let mut writer = OutputWriter::create(&target, &OutputOptions { files, ..options() }).unwrap();
    assert!(writer.writes(OutputFile::Host, "power_draw") && !writer.writes(OutputFile::Host, "uptime"));
    assert_eq!(writer.columns(OutputFile::Task), None);
    // Columns that are not written need no values, files that are not written take anything.
    let mut batch = HostBatch { uptime_ms: vec![], energy_usage_j: vec![], ..host_batch(3, 0) };
    writer.host(&mut batch).unwrap();
    writer.task(&mut task_batch()).unwrap();
    writer.finish().unwrap();
    let expected = ["power_draw", "cpu_usage", "timestamp", "host_name", "cluster_name", "timestamp_absolute"];
    assert_eq!(names(&target, OutputFile::Host), expected);
    assert_eq!(names(&target, OutputFile::Service), ["hosts_up", "timestamp", "timestamp_absolute"]);
    assert!(!target.join("task.parquet").exists());
}

#[test]
fn an_unknown_column_is_named() {
    let dir = TempDir::new();
    let target = dir.path().join("made/run");
    let files = vec![(OutputFile::Service, Some(vec!["hosts_sideways".to_string()]))];
    let error = OutputWriter::create(&target, &OutputOptions { files, ..options() }).unwrap_err().to_string();
    assert!(error.contains("'hosts_sideways'") && error.contains("hosts_up, hosts_down"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no folder stays behind");
}

#[test]
fn nothing_is_visible_before_the_end_or_after_a_drop() {
    let dir = TempDir::new();
    let target = dir.path().join("name/raw-output/0/seed=0");
    let mut writer = OutputWriter::create(&target, &options()).unwrap();
    writer.host(&mut host_batch(10, 0)).unwrap();
    assert!(!target.exists());
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    OutputWriter::create(&target, &options()).unwrap().finish().unwrap();
    let left: Vec<_> =
        fs::read_dir(target.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["seed=0"]);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 5);
}

#[test]
fn earlier_results_are_replaced_and_other_files_are_not() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    OutputWriter::create(&target, &options()).unwrap().finish().unwrap();
    let mut writer = OutputWriter::create(&target, &options()).unwrap();
    writer.host(&mut host_batch(3, 0)).unwrap();
    assert_eq!(rows(&target, OutputFile::Host).len(), 0, "the earlier results stay until the end");
    writer.finish().unwrap();
    assert_eq!(rows(&target, OutputFile::Host).len(), 3);
    fs::write(target.join("thesis.txt"), "years of work").unwrap();
    let error = OutputWriter::create(&target, &options()).unwrap_err().to_string();
    assert!(error.contains("'thesis.txt'"), "{error}");
    assert!(target.join("thesis.txt").exists());
}

#[test]
fn mistakes_of_the_caller_are_errors() {
    let dir = TempDir::new();
    let target = dir.path().join("run");
    let mut writer = OutputWriter::create(&target, &options()).unwrap();
    let mut short = HostBatch { power_draw_w: vec![1.0], ..host_batch(2, 0) };
    let error = writer.host(&mut short).unwrap_err();
    assert_eq!((error.place.as_str(), error.found.as_str()), ("column power_draw", "1 values"));
    let mut beyond = HostBatch { host: vec![0, 3], ..host_batch(2, 0) };
    writer.host(&mut beyond).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("host.parquet") && error.contains("index 3 in column host_name"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn files_by_name() {
    assert_eq!(OutputFile::from_name("power_source"), Some(OutputFile::PowerSource));
    assert_eq!(OutputFile::from_name("powerSource"), Some(OutputFile::PowerSource));
    assert_eq!(OutputFile::from_name("hosts"), None);
}
