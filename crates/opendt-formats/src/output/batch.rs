//! What the caller fills: some samples of one file as plain vectors.
//!
//! All vectors of a batch have one entry a row. A vector of a column that is not written may stay empty; so may
//! those that say so.

/// States of a task, in the order of their numbers in [`TaskBatch::state`].
pub const TASK_STATES: [&str; 8] =
    ["CREATED", "PROVISIONING", "RUNNING", "FAILED", "PAUSED", "COMPLETED", "TERMINATED", "DELETED"];

/// States of a battery, in the order of their numbers in [`BatteryBatch::state`].
pub const BATTERY_STATES: [&str; 3] = ["CHARGING", "IDLE", "DISCHARGING"];

/// A batch of rows of one file.
pub(super) trait Batch: Default + Send + 'static {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Empties all vectors and keeps their memory.
    fn clear(&mut self);

    /// An empty batch with as many nested columns.
    fn like(&self) -> Self;
}

macro_rules! batch {
    ($(#[$outer:meta])* $name:ident, rows: $rows:ident, { $($(#[$inner:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name { $($(#[$inner])* pub $field: Vec<$type>,)* }

        impl $name {
            /// Number of rows.
            pub fn rows(&self) -> usize {
                self.$rows.len()
            }

            /// Empties all vectors and keeps their memory.
            pub fn clear(&mut self) {
                $(Nested::clear(&mut self.$field);)*
            }
        }

        impl Batch for $name {
            fn rows(&self) -> usize {
                $name::rows(self)
            }

            fn clear(&mut self) {
                $name::clear(self);
            }

            fn like(&self) -> Self {
                $name { $($field: Nested::like(&self.$field),)* }
            }
        }
    };
}

/// Lets a vector of nested columns keep its length when the rows go.
trait Nested {
    fn clear(&mut self);
    fn like(&self) -> Self;
}

macro_rules! not_nested {
    ($($type:ty),*) => { $(impl Nested for Vec<$type> {
        fn clear(&mut self) {
            Vec::clear(self);
        }

        fn like(&self) -> Self {
            Vec::new()
        }
    })* };
}
not_nested!(u8, u32, i32, i64, f32);

impl Nested for Vec<GpuColumns> {
    fn clear(&mut self) {
        self.iter_mut().for_each(GpuColumns::clear);
    }

    fn like(&self) -> Self {
        vec![GpuColumns::default(); self.len()]
    }
}

batch! {
    /// The `n`th GPU of every host; [`f32::NAN`] and [`super::UNKNOWN_MS`] stand for a host that has fewer.
    GpuColumns, rows: capacity_mhz, {
        /// Capacity, MHz.
        capacity_mhz: f32,
        /// Supply, MHz.
        usage_mhz: f32,
        /// Demand, MHz.
        demand_mhz: f32,
        /// Share in use.
        utilization_ratio: f32,
        /// Busy since the previous sample, ms.
        time_active_ms: i64,
        /// Idle since the previous sample, ms.
        time_idle_ms: i64,
        /// Demanded and not supplied since the previous sample, ms.
        time_steal_ms: i64,
        /// Lost since the previous sample, ms.
        time_lost_ms: i64,
        /// Power, W.
        power_draw_w: f32,
    }
}

batch! {
    /// Rows of `host.parquet`. The name, cluster, cores and memory of a host follow from its index; `tasks_terminated`
    /// and `cpu_time_lost` are always 0, as in the reference.
    HostBatch, rows: host, {
        /// Simulated time, ms.
        timestamp_ms: i64,
        /// Index of the host.
        host: u32,
        /// Tasks that run.
        tasks_running: i32,
        /// Tasks in error; may be empty, which means 0.
        tasks_error: i32,
        /// Invalid tasks; may be empty, which means 0.
        tasks_invalid: i32,
        /// Capacity, MHz.
        cpu_capacity_mhz: f32,
        /// Supply, MHz.
        cpu_usage_mhz: f32,
        /// Demand, MHz.
        cpu_demand_mhz: f32,
        /// Share in use.
        cpu_utilization_ratio: f32,
        /// Busy since the previous sample, ms.
        cpu_time_active_ms: i64,
        /// Idle since the previous sample, ms.
        cpu_time_idle_ms: i64,
        /// Demanded and not supplied since the previous sample, ms.
        cpu_time_steal_ms: i64,
        /// Power, W.
        power_draw_w: f32,
        /// Energy since the previous sample, J.
        energy_usage_j: f32,
        /// Embodied carbon since the previous sample, g.
        embodied_carbon_g: f32,
        /// Up since the previous sample, ms.
        uptime_ms: i64,
        /// Down since the previous sample, ms.
        downtime_ms: i64,
        /// Last start, ms since the epoch, or unknown; may be empty, which means unknown.
        boot_time_ms: i64,
        /// One entry for each of `gpus_per_host`.
        gpus: GpuColumns,
    }
}

batch! {
    /// Rows of `task.parquet`. Identifier, name, memory, cores and submission of a task follow from its index.
    TaskBatch, rows: task, {
        /// Simulated time, ms.
        timestamp_ms: i64,
        /// Index of the task.
        task: u32,
        /// Index of the last host, or [`super::NO_HOST`].
        host: u32,
        /// Capacity of the host, MHz; 0 when not running.
        cpu_limit_mhz: f32,
        /// Supply, MHz.
        cpu_usage_mhz: f32,
        /// Demand, MHz.
        cpu_demand_mhz: f32,
        /// Busy since the previous sample, in the reference's unit (whole seconds).
        cpu_time_active: i64,
        /// Idle since the previous sample, in the reference's unit.
        cpu_time_idle: i64,
        /// Demanded and not supplied since the previous sample, in the reference's unit.
        cpu_time_steal: i64,
        /// Lost since the previous sample, in the reference's unit; may be empty, which means 0.
        cpu_time_lost: i64,
        /// GPU capacity, MHz; this and the other GPU columns may be empty, which means 0.
        gpu_limit_mhz: f32,
        /// GPU supply, MHz.
        gpu_usage_mhz: f32,
        /// GPU demand, MHz.
        gpu_demand_mhz: f32,
        /// GPU busy since the previous sample, in the reference's unit.
        gpu_time_active: i64,
        /// GPU idle since the previous sample, in the reference's unit.
        gpu_time_idle: i64,
        /// GPU demanded and not supplied since the previous sample, in the reference's unit.
        gpu_time_steal: i64,
        /// GPU lost since the previous sample, in the reference's unit.
        gpu_time_lost: i64,
        /// Running since the previous sample, ms.
        uptime_ms: i64,
        /// Failed since the previous sample, ms.
        downtime_ms: i64,
        /// Failures so far.
        num_failures: i64,
        /// Pauses so far.
        num_pauses: i64,
        /// First start, ms, or unknown.
        schedule_time_ms: i64,
        /// End, ms, or unknown.
        finish_time_ms: i64,
        /// Number of the state in [`TASK_STATES`].
        state: u8,
        /// Waited for a host so far, ms, or unknown; this and the other delays may be empty, which means 0.
        scheduling_delay_ms: i64,
        /// Lost by failures so far, ms, or unknown.
        failure_delay_ms: i64,
        /// Lost by checkpoints so far, ms, or unknown.
        checkpoint_delay_ms: i64,
    }
}

batch! {
    /// Rows of `powerSource.parquet`.
    PowerSourceBatch, rows: source, {
        /// Simulated time, ms.
        timestamp_ms: i64,
        /// Index of the power source.
        source: u32,
        /// Power, W.
        power_draw_w: f32,
        /// Energy since the previous sample, J.
        energy_usage_j: f32,
        /// Carbon intensity, g/kWh.
        carbon_intensity_g_per_kwh: f32,
        /// Emission since the previous sample, g.
        carbon_emission_g: f32,
    }
}

batch! {
    /// Rows of `battery.parquet`.
    BatteryBatch, rows: battery, {
        /// Simulated time, ms.
        timestamp_ms: i64,
        /// Index of the battery.
        battery: u32,
        /// Delivered power, W.
        power_draw_w: f32,
        /// Delivered energy since the previous sample, J.
        energy_usage_j: f32,
        /// Embodied carbon since the previous sample, g.
        embodied_carbon_g: f32,
        /// Charge, J.
        charge_j: f32,
        /// Capacity, J.
        capacity_j: f32,
        /// Number of the state in [`BATTERY_STATES`].
        state: u8,
    }
}

batch! {
    /// Rows of `service.parquet`.
    ServiceBatch, rows: timestamp_ms, {
        /// Simulated time, ms.
        timestamp_ms: i64,
        /// Hosts that are up.
        hosts_up: i32,
        /// Hosts that are down.
        hosts_down: i32,
        /// Tasks submitted so far.
        tasks_total: i32,
        /// Tasks in the queue.
        tasks_pending: i32,
        /// Tasks on hosts.
        tasks_active: i32,
        /// Tasks completed so far.
        tasks_completed: i32,
        /// Tasks given up so far.
        tasks_terminated: i32,
    }
}
