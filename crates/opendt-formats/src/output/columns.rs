//! The columns of each file: name, type, and where in a batch their values come from.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use opendt_engine::workload::TaskIds;
use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::schema::types::{Type, TypePtr};

use super::batch::{
    BATTERY_STATES, BatteryBatch, GpuColumns, HostBatch, PowerSourceBatch, ServiceBatch, TASK_STATES, TaskBatch,
};
use super::{ClusterPart, OutputFile, OutputOptions};

/// Reaches a vector of a batch.
type Get<B, T> = Box<dyn for<'a> Fn(&'a B) -> &'a [T] + Send + Sync>;

/// Values that are known before the first row, in Parquet's plain encoding.
#[derive(Clone, Debug, Default)]
pub(super) struct Dictionary {
    pub bytes: Vec<u8>,
    pub count: u32,
}

/// Where the values of a column come from.
pub(super) enum Source<B> {
    I32(Get<B, i32>),
    /// `UNKNOWN_MS` is null in optional columns.
    I64(Get<B, i64>),
    /// NaN is null in optional columns.
    F32(Get<B, f32>),
    /// Another column plus a number.
    Shifted(Get<B, i64>, i64),
    /// Entry `codes[index]` of the dictionary. An index past the end is a mistake, unless the last entry stands for it.
    Looked {
        index: Get<B, u32>,
        codes: Vec<u32>,
        dictionary: Dictionary,
        open_ended: bool,
    },
    /// Entry of the dictionary.
    State(Get<B, u8>, Dictionary),
    /// The only entry of the dictionary in every row.
    Constant(Dictionary),
}

/// A column of a file.
pub(super) struct Column<B> {
    pub name: String,
    pub physical: PhysicalType,
    pub optional: bool,
    /// Whether the vector may be empty, which means zero, or null in a column with `empty_is_null`.
    pub may_be_empty: bool,
    pub empty_is_null: bool,
    pub source: Source<B>,
}

impl<B> Column<B> {
    fn new(name: impl Into<String>, physical: PhysicalType, source: Source<B>) -> Self {
        Column { name: name.into(), physical, optional: false, may_be_empty: false, empty_is_null: false, source }
    }

    fn i32(name: impl Into<String>, get: impl for<'a> Fn(&'a B) -> &'a [i32] + Send + Sync + 'static) -> Self {
        Column::new(name, PhysicalType::INT32, Source::I32(Box::new(get)))
    }

    fn i64(name: impl Into<String>, get: impl for<'a> Fn(&'a B) -> &'a [i64] + Send + Sync + 'static) -> Self {
        Column::new(name, PhysicalType::INT64, Source::I64(Box::new(get)))
    }

    fn f32(name: impl Into<String>, get: impl for<'a> Fn(&'a B) -> &'a [f32] + Send + Sync + 'static) -> Self {
        Column::new(name, PhysicalType::FLOAT, Source::F32(Box::new(get)))
    }

    fn constant(name: impl Into<String>, value: Values) -> Self {
        let (physical, dictionary, _) = value.dictionary();
        Column::new(name, physical, Source::Constant(dictionary))
    }

    fn looked(
        name: impl Into<String>,
        index: impl for<'a> Fn(&'a B) -> &'a [u32] + Send + Sync + 'static,
        values: Values,
    ) -> Self {
        let (physical, dictionary, codes) = values.dictionary();
        Column::new(name, physical, Source::Looked { index: Box::new(index), codes, dictionary, open_ended: false })
    }

    fn state(
        name: impl Into<String>,
        get: impl for<'a> Fn(&'a B) -> &'a [u8] + Send + Sync + 'static,
        names: &[&str],
    ) -> Self {
        let (physical, dictionary, _) = Values::texts(names.iter().copied()).dictionary();
        Column::new(name, physical, Source::State(Box::new(get), dictionary)).optional()
    }

    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    fn open_ended(mut self) -> Self {
        if let Source::Looked { open_ended, .. } = &mut self.source {
            *open_ended = true;
        }
        self
    }

    fn or_zero(mut self) -> Self {
        self.may_be_empty = true;
        self
    }

    fn or_null(mut self) -> Self {
        self.may_be_empty = true;
        self.empty_is_null = true;
        self
    }

    /// The vector's length; `None` where there is no vector.
    pub fn length(&self, batch: &B) -> Option<usize> {
        match &self.source {
            Source::I32(get) => Some(get(batch).len()),
            Source::I64(get) | Source::Shifted(get, _) => Some(get(batch).len()),
            Source::F32(get) => Some(get(batch).len()),
            Source::Looked { index, .. } => Some(index(batch).len()),
            Source::State(get, _) => Some(get(batch).len()),
            Source::Constant(_) => None,
        }
    }

    fn field(&self) -> parquet::errors::Result<TypePtr> {
        let repetition = if self.optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let logical = (self.physical == PhysicalType::BYTE_ARRAY).then_some(LogicalType::String);
        Type::primitive_type_builder(&self.name, self.physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .build()
            .map(Arc::new)
    }
}

/// The Parquet schema of a file, with the reference's name for its root.
pub(super) fn schema<B>(file: OutputFile, columns: &[Column<B>]) -> parquet::errors::Result<TypePtr> {
    let root = match file {
        OutputFile::Host => "HostTableReader",
        OutputFile::Task => "TaskTableReader",
        OutputFile::PowerSource => "PowerSourceTableReader",
        OutputFile::Battery => "BatteryTableReader",
        OutputFile::Service => "ServiceTableReader",
    };
    let fields = columns.iter().map(Column::field).collect::<parquet::errors::Result<_>>()?;
    Type::group_type_builder(root).with_fields(fields).build().map(Arc::new)
}

/// Values of one type, by index.
enum Values {
    I32(Vec<i32>),
    I64(Vec<i64>),
    Text(Vec<Box<str>>),
}

impl Values {
    fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        Values::Text(texts.map(Box::from).collect())
    }

    /// Distinct values in plain encoding and the code of each index.
    fn dictionary(&self) -> (PhysicalType, Dictionary, Vec<u32>) {
        match self {
            Values::I32(values) => coded(PhysicalType::INT32, values, |v, out| out.extend(v.to_le_bytes())),
            Values::I64(values) => coded(PhysicalType::INT64, values, |v, out| out.extend(v.to_le_bytes())),
            Values::Text(values) => coded(PhysicalType::BYTE_ARRAY, values, |v, out| {
                out.extend((v.len() as u32).to_le_bytes());
                out.extend(v.as_bytes());
            }),
        }
    }
}

fn coded<T: Eq + Hash>(
    physical: PhysicalType,
    values: &[T],
    plain: impl Fn(&T, &mut Vec<u8>),
) -> (PhysicalType, Dictionary, Vec<u32>) {
    let mut known: HashMap<&T, u32> = HashMap::new();
    let mut dictionary = Dictionary::default();
    let codes = values
        .iter()
        .map(|value| {
            *known.entry(value).or_insert_with(|| {
                plain(value, &mut dictionary.bytes);
                dictionary.count += 1;
                dictionary.count - 1
            })
        })
        .collect();
    (physical, dictionary, codes)
}

fn i32s(counts: &[u32]) -> Values {
    // Counts above int32 do not occur in practice; the reference's column cannot say more.
    Values::I32(counts.iter().map(|&count| i32::try_from(count).unwrap_or(i32::MAX)).collect())
}

fn times<B>(get: for<'a> fn(&'a B) -> &'a [i64], options: &OutputOptions) -> [Column<B>; 2]
where
    B: 'static,
{
    let shift = options.start_epoch_ms;
    [
        Column::i64("timestamp", get),
        Column::new("timestamp_absolute", PhysicalType::INT64, Source::Shifted(Box::new(get), shift)),
    ]
}

/// Columns that identify a row of a file; always written.
pub(super) fn base_columns(file: OutputFile) -> &'static [&'static str] {
    match file {
        OutputFile::Host => &["host_name", "cluster_name", "timestamp", "timestamp_absolute"],
        OutputFile::Task => &["task_id", "task_name", "timestamp", "timestamp_absolute"],
        OutputFile::PowerSource => &["source_name", "cluster_name", "timestamp", "timestamp_absolute"],
        OutputFile::Battery => &["battery_name", "cluster_name", "timestamp", "timestamp_absolute"],
        OutputFile::Service => &["timestamp", "timestamp_absolute"],
    }
}

/// Columns of `host.parquet`.
pub(super) fn host_columns(options: &OutputOptions) -> Vec<Column<HostBatch>> {
    let hosts = &options.hosts;
    let mut columns: Vec<Column<HostBatch>> = times(|b: &HostBatch| b.timestamp_ms.as_slice(), options).into();
    columns.extend([
        Column::looked("host_name", |b: &HostBatch| &b.host, Values::texts(hosts.iter().map(|h| h.name.as_str()))),
        Column::looked(
            "cluster_name",
            |b: &HostBatch| &b.host,
            Values::texts(hosts.iter().map(|h| h.cluster.as_str())),
        ),
        Column::looked(
            "core_count",
            |b: &HostBatch| &b.host,
            i32s(&hosts.iter().map(|h| h.core_count).collect::<Vec<_>>()),
        ),
        Column::looked(
            "mem_capacity",
            |b: &HostBatch| &b.host,
            Values::I64(hosts.iter().map(|h| h.memory_mib).collect()),
        ),
        Column::constant("tasks_terminated", Values::I32(vec![0])),
        Column::i32("tasks_running", |b: &HostBatch| &b.tasks_running),
        Column::i32("tasks_error", |b: &HostBatch| &b.tasks_error).or_zero(),
        Column::i32("tasks_invalid", |b: &HostBatch| &b.tasks_invalid).or_zero(),
        Column::f32("cpu_capacity", |b: &HostBatch| &b.cpu_capacity_mhz),
        Column::f32("cpu_usage", |b: &HostBatch| &b.cpu_usage_mhz),
        Column::f32("cpu_demand", |b: &HostBatch| &b.cpu_demand_mhz),
        Column::f32("cpu_utilization", |b: &HostBatch| &b.cpu_utilization_ratio),
        Column::i64("cpu_time_active", |b: &HostBatch| &b.cpu_time_active_ms),
        Column::i64("cpu_time_idle", |b: &HostBatch| &b.cpu_time_idle_ms),
        Column::i64("cpu_time_steal", |b: &HostBatch| &b.cpu_time_steal_ms),
        Column::constant("cpu_time_lost", Values::I64(vec![0])),
        Column::f32("power_draw", |b: &HostBatch| &b.power_draw_w),
        Column::f32("energy_usage", |b: &HostBatch| &b.energy_usage_j),
        Column::f32("embodied_carbon", |b: &HostBatch| &b.embodied_carbon_g),
        Column::i64("uptime", |b: &HostBatch| &b.uptime_ms),
        Column::i64("downtime", |b: &HostBatch| &b.downtime_ms),
        Column::i64("boot_time", |b: &HostBatch| &b.boot_time_ms).optional().or_null(),
    ]);
    columns.extend((0..options.gpus_per_host).flat_map(host_gpu_columns));
    columns
}

fn host_gpu_columns(gpu: usize) -> [Column<HostBatch>; 9] {
    let f32 = |name: &str, get: for<'a> fn(&'a GpuColumns) -> &'a [f32]| {
        Column::f32(format!("gpu_{name}_{gpu}"), move |b: &HostBatch| b.gpus.get(gpu).map_or(&[], get)).optional()
    };
    let i64 = |name: &str, get: for<'a> fn(&'a GpuColumns) -> &'a [i64]| {
        Column::i64(format!("gpu_{name}_{gpu}"), move |b: &HostBatch| b.gpus.get(gpu).map_or(&[], get)).optional()
    };
    [
        f32("capacity", |g| &g.capacity_mhz),
        f32("usage", |g| &g.usage_mhz),
        f32("demand", |g| &g.demand_mhz),
        f32("utilization", |g| &g.utilization_ratio),
        i64("time_active", |g| &g.time_active_ms),
        i64("time_idle", |g| &g.time_idle_ms),
        i64("time_steal", |g| &g.time_steal_ms),
        i64("time_lost", |g| &g.time_lost_ms),
        f32("power_draw", |g| &g.power_draw_w),
    ]
}

/// Columns of `task.parquet`.
pub(super) fn task_columns(options: &OutputOptions) -> Vec<Column<TaskBatch>> {
    let tasks = options.tasks.as_ref();
    let ids = match &tasks.ids {
        TaskIds::Text(ids) => Values::Text(ids.clone()),
        TaskIds::Int(ids) => match ids.iter().map(|&id| i32::try_from(id)).collect() {
            Ok(ids) => Values::I32(ids),
            Err(_) => Values::I64(ids.clone()),
        },
    };
    let names = match tasks.names.is_empty() {
        true => Values::Text(vec!["".into(); tasks.ids.len()]),
        false => Values::Text(tasks.names.clone()),
    };
    // The entry after the last host is for tasks that have none.
    let hosts = Values::texts(options.hosts.iter().map(|h| h.name.as_str()).chain([""]));
    let gpu_count = match tasks.gpu_count.is_empty() {
        true => Column::constant("gpu_count", Values::I32(vec![0])),
        false => Column::looked("gpu_count", |b: &TaskBatch| &b.task, i32s(&tasks.gpu_count)),
    };
    let mut columns: Vec<Column<TaskBatch>> = times(|b: &TaskBatch| b.timestamp_ms.as_slice(), options).into();
    columns.extend([
        Column::looked("task_id", |b: &TaskBatch| &b.task, ids),
        Column::looked("task_name", |b: &TaskBatch| &b.task, names),
        Column::looked("host_name", |b: &TaskBatch| &b.host, hosts).open_ended(),
        Column::looked("mem_capacity", |b: &TaskBatch| &b.task, Values::I64(tasks.memory_mib.clone())),
        Column::looked("cpu_count", |b: &TaskBatch| &b.task, i32s(&tasks.cpu_count)),
        Column::f32("cpu_limit", |b: &TaskBatch| &b.cpu_limit_mhz),
        Column::f32("cpu_usage", |b: &TaskBatch| &b.cpu_usage_mhz),
        Column::f32("cpu_demand", |b: &TaskBatch| &b.cpu_demand_mhz),
        Column::i64("cpu_time_active", |b: &TaskBatch| &b.cpu_time_active),
        Column::i64("cpu_time_idle", |b: &TaskBatch| &b.cpu_time_idle),
        Column::i64("cpu_time_steal", |b: &TaskBatch| &b.cpu_time_steal),
        Column::i64("cpu_time_lost", |b: &TaskBatch| &b.cpu_time_lost).or_zero(),
        gpu_count.optional(),
        Column::f32("gpu_limit", |b: &TaskBatch| &b.gpu_limit_mhz).optional().or_zero(),
        Column::f32("gpu_usage", |b: &TaskBatch| &b.gpu_usage_mhz).optional().or_zero(),
        Column::f32("gpu_demand", |b: &TaskBatch| &b.gpu_demand_mhz).optional().or_zero(),
        Column::i64("gpu_time_active", |b: &TaskBatch| &b.gpu_time_active).optional().or_zero(),
        Column::i64("gpu_time_idle", |b: &TaskBatch| &b.gpu_time_idle).optional().or_zero(),
        Column::i64("gpu_time_steal", |b: &TaskBatch| &b.gpu_time_steal).optional().or_zero(),
        Column::i64("gpu_time_lost", |b: &TaskBatch| &b.gpu_time_lost).optional().or_zero(),
        Column::i64("uptime", |b: &TaskBatch| &b.uptime_ms),
        Column::i64("downtime", |b: &TaskBatch| &b.downtime_ms),
        Column::i64("num_failures", |b: &TaskBatch| &b.num_failures),
        Column::i64("num_pauses", |b: &TaskBatch| &b.num_pauses),
        Column::i64("schedule_time", |b: &TaskBatch| &b.schedule_time_ms).optional(),
        Column::looked("submission_time", |b: &TaskBatch| &b.task, Values::I64(tasks.submission_ms.clone())).optional(),
        Column::i64("finish_time", |b: &TaskBatch| &b.finish_time_ms).optional(),
        Column::state("task_state", |b: &TaskBatch| &b.state, &TASK_STATES),
        Column::i64("scheduling_delay", |b: &TaskBatch| &b.scheduling_delay_ms).optional().or_zero(),
        Column::i64("failure_delay", |b: &TaskBatch| &b.failure_delay_ms).optional().or_zero(),
        Column::i64("checkpoint_delay", |b: &TaskBatch| &b.checkpoint_delay_ms).optional().or_zero(),
    ]);
    columns
}

fn part_names(parts: &[ClusterPart]) -> (Values, Values) {
    (
        Values::texts(parts.iter().map(|part| part.name.as_str())),
        Values::texts(parts.iter().map(|part| part.cluster.as_str())),
    )
}

/// Columns of `powerSource.parquet`.
pub(super) fn power_source_columns(options: &OutputOptions) -> Vec<Column<PowerSourceBatch>> {
    let (names, clusters) = part_names(&options.power_sources);
    let mut columns: Vec<Column<PowerSourceBatch>> =
        times(|b: &PowerSourceBatch| b.timestamp_ms.as_slice(), options).into();
    columns.extend([
        Column::looked("source_name", |b: &PowerSourceBatch| &b.source, names),
        Column::looked("cluster_name", |b: &PowerSourceBatch| &b.source, clusters),
        Column::f32("power_draw", |b: &PowerSourceBatch| &b.power_draw_w),
        Column::f32("energy_usage", |b: &PowerSourceBatch| &b.energy_usage_j),
        Column::f32("carbon_intensity", |b: &PowerSourceBatch| &b.carbon_intensity_g_per_kwh),
        Column::f32("carbon_emission", |b: &PowerSourceBatch| &b.carbon_emission_g),
    ]);
    columns
}

/// Columns of `battery.parquet`.
pub(super) fn battery_columns(options: &OutputOptions) -> Vec<Column<BatteryBatch>> {
    let (names, clusters) = part_names(&options.batteries);
    let mut columns: Vec<Column<BatteryBatch>> = times(|b: &BatteryBatch| b.timestamp_ms.as_slice(), options).into();
    columns.extend([
        Column::looked("battery_name", |b: &BatteryBatch| &b.battery, names),
        Column::looked("cluster_name", |b: &BatteryBatch| &b.battery, clusters),
        Column::f32("power_draw", |b: &BatteryBatch| &b.power_draw_w),
        Column::f32("energy_usage", |b: &BatteryBatch| &b.energy_usage_j),
        Column::f32("embodied_carbon_emission", |b: &BatteryBatch| &b.embodied_carbon_g),
        Column::f32("charge", |b: &BatteryBatch| &b.charge_j),
        Column::f32("capacity", |b: &BatteryBatch| &b.capacity_j),
        Column::state("battery_state", |b: &BatteryBatch| &b.state, &BATTERY_STATES),
    ]);
    columns
}

/// Columns of `service.parquet`.
pub(super) fn service_columns(options: &OutputOptions) -> Vec<Column<ServiceBatch>> {
    let mut columns: Vec<Column<ServiceBatch>> = times(|b: &ServiceBatch| b.timestamp_ms.as_slice(), options).into();
    columns.extend([
        Column::i32("hosts_up", |b: &ServiceBatch| &b.hosts_up),
        Column::i32("hosts_down", |b: &ServiceBatch| &b.hosts_down),
        Column::i32("tasks_total", |b: &ServiceBatch| &b.tasks_total),
        Column::i32("tasks_pending", |b: &ServiceBatch| &b.tasks_pending),
        Column::i32("tasks_active", |b: &ServiceBatch| &b.tasks_active),
        Column::i32("tasks_completed", |b: &ServiceBatch| &b.tasks_completed),
        Column::i32("tasks_terminated", |b: &ServiceBatch| &b.tasks_terminated),
    ]);
    columns
}
