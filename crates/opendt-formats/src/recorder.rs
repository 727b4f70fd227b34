//! From a running simulation to the reference's result files: an observer that fills batches.
//!
//! Columns that hold a change since the previous sample are differences of 64-bit totals; rounding to the files' 32 bits
//! comes last.

use opendt_engine::observe::{Observer, TaskResult};
use opendt_engine::sim::Simulation;
use opendt_engine::state::{BatteryMode, HostStatus, TaskState};

use crate::error::{FormatError, Result};
use crate::output::{
    BatteryBatch, GpuColumns, HostBatch, NO_HOST, OutputFile, OutputWriter, PowerSourceBatch, ServiceBatch, TaskBatch,
    UNKNOWN_MS,
};

/// Rows after which a batch goes to its writer.
const BATCH_ROWS: usize = 16_384;

/// Totals of a host at the previous sample.
#[derive(Clone, Copy, Default)]
struct HostTotals {
    energy_j: f64,
    active_ms: i64,
    idle_ms: i64,
    steal_ms: i64,
    up_ms: i64,
    down_ms: i64,
}

/// Totals of a task at the previous sample.
#[derive(Clone, Copy, Default)]
struct TaskTotals {
    active_s: i64,
    idle_s: i64,
    steal_s: i64,
    gpu_active_s: i64,
    up_ms: i64,
    demanded_mhz_ms: f64,
    supplied_mhz_ms: f64,
    gpu_supplied_mhz_ms: f64,
}

/// What a task did between two moments, ms of the whole CPU or GPU of its host.
#[derive(Clone, Copy, Default)]
struct TaskTimes {
    active: i64,
    idle: i64,
    steal: i64,
    gpu_active: i64,
}

impl TaskTotals {
    /// What was done since `last` on a host of these capacities, in ms.
    fn since(&self, last: &TaskTotals, capacity_mhz: f64, gpu_capacity_mhz: f64) -> TaskTimes {
        let ms = |work: f64, capacity: f64| if capacity > 0.0 { (work / capacity).round() as i64 } else { 0 };
        let supplied = self.supplied_mhz_ms - last.supplied_mhz_ms;
        let active = ms(supplied, capacity_mhz);
        TaskTimes {
            active,
            idle: (self.up_ms - last.up_ms - active).max(0),
            steal: ms(self.demanded_mhz_ms - last.demanded_mhz_ms - supplied, capacity_mhz),
            gpu_active: ms(self.gpu_supplied_mhz_ms - last.gpu_supplied_mhz_ms, gpu_capacity_mhz),
        }
    }

    /// The same as the reference counts it: differences of whole seconds since the start.
    fn reference_since(&self, last: &TaskTotals) -> TaskTimes {
        TaskTimes {
            active: self.active_s - last.active_s,
            idle: self.idle_s - last.idle_s,
            steal: self.steal_s - last.steal_s,
            gpu_active: self.gpu_active_s - last.gpu_active_s,
        }
    }
}

/// Writes every sample of one simulation.
pub struct OutputRecorder {
    writer: OutputWriter,
    files: Vec<OutputFile>,
    start_epoch_ms: i64,
    host: HostBatch,
    task: TaskBatch,
    source: PowerSourceBatch,
    battery: BatteryBatch,
    service: ServiceBatch,
    gpus_per_host: usize,
    host_totals: Vec<HostTotals>,
    /// By index of the task in the workload.
    task_totals: Vec<TaskTotals>,
    /// Tasks that ended since the previous sample.
    ended: Vec<TaskResult>,
    source_totals: Vec<(f64, f64)>,
    battery_totals: Vec<f64>,
    last_ms: i64,
    scratch: Vec<f64>,
    failure: Option<FormatError>,
}

impl OutputRecorder {
    /// Records the files of `writer`; the simulation must hold one workload.
    pub fn new(writer: OutputWriter, files: &[OutputFile], gpus_per_host: usize, start_epoch_ms: i64) -> Self {
        OutputRecorder {
            writer,
            files: files.to_vec(),
            start_epoch_ms,
            host: HostBatch { gpus: vec![GpuColumns::default(); gpus_per_host], ..HostBatch::default() },
            task: TaskBatch::default(),
            source: PowerSourceBatch::default(),
            battery: BatteryBatch::default(),
            service: ServiceBatch::default(),
            gpus_per_host,
            host_totals: Vec::new(),
            task_totals: Vec::new(),
            ended: Vec::new(),
            source_totals: Vec::new(),
            battery_totals: Vec::new(),
            last_ms: 0,
            scratch: Vec::new(),
            failure: None,
        }
    }

    /// Writes what is left and puts the files into place.
    ///
    /// # Errors
    /// When a file could not be written; none is visible then.
    pub fn finish(mut self) -> Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.flush(0)?;
        self.writer.finish()
    }

    /// Whether writing has failed; the run may as well end.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    fn wants(&self, file: OutputFile) -> bool {
        self.files.contains(&file)
    }

    fn flush(&mut self, least: usize) -> Result<()> {
        if self.host.rows() > least {
            self.writer.host(&mut self.host)?;
        }
        if self.task.rows() > least {
            self.writer.task(&mut self.task)?;
        }
        if self.source.rows() > least {
            self.writer.power_source(&mut self.source)?;
        }
        if self.battery.rows() > least {
            self.writer.battery(&mut self.battery)?;
        }
        if self.service.rows() > least {
            self.writer.service(&mut self.service)?;
        }
        Ok(())
    }

    fn sample_hosts(&mut self, simulation: &Simulation) {
        let state = simulation.state();
        let now = state.now;
        self.host_totals.resize(state.hosts.len(), HostTotals::default());
        for (index, host) in state.hosts.iter().enumerate() {
            let class = &simulation.model().classes[host.class as usize];
            let (up_ms, down_ms) = simulation.up_down_ms(index);
            let dt = now as f64 - state.since_ms[index];
            let (demand_mhz, usage_mhz) = (state.demand_mhz[index], state.usage_mhz[index]);
            let active = host.active_ms + host.active_ratio * dt;
            let steal = host.steal_ms + host.steal_ratio * dt;
            let total = HostTotals {
                energy_j: simulation.host_energy_j(index),
                active_ms: active.round() as i64,
                idle_ms: (now as f64 - active).round() as i64,
                steal_ms: steal.round() as i64,
                up_ms,
                down_ms,
            };
            let last = std::mem::replace(&mut self.host_totals[index], total);
            let batch = &mut self.host;
            batch.timestamp_ms.push(now);
            batch.host.push(index as u32);
            batch.tasks_running.push(host.slot_count as i32);
            batch.cpu_capacity_mhz.push(host.capacity_mhz as f32);
            batch.cpu_usage_mhz.push(usage_mhz as f32);
            batch.cpu_demand_mhz.push(demand_mhz as f32);
            batch.cpu_utilization_ratio.push((demand_mhz / host.capacity_mhz).min(1.0) as f32);
            batch.cpu_time_active_ms.push(total.active_ms - last.active_ms);
            batch.cpu_time_idle_ms.push(total.idle_ms - last.idle_ms);
            batch.cpu_time_steal_ms.push(total.steal_ms - last.steal_ms);
            batch.power_draw_w.push(state.power_w[index] as f32);
            batch.energy_usage_j.push((total.energy_j - last.energy_j) as f32);
            batch.embodied_carbon_g.push((class.embodied_g_per_ms * (now - self.last_ms) as f64) as f32);
            batch.uptime_ms.push(total.up_ms - last.up_ms);
            batch.downtime_ms.push(total.down_ms - last.down_ms);
            batch.boot_time_ms.push(host.boot_ms + self.start_epoch_ms);
            for gpu in 0..self.gpus_per_host {
                push_gpu(&mut self.host.gpus[gpu], simulation, index, gpu, now - self.last_ms);
            }
        }
    }

    fn sample_tasks(&mut self, simulation: &Simulation) {
        let ended = std::mem::take(&mut self.ended);
        for result in &ended {
            self.push_ended(simulation, result);
        }
        self.ended = ended;
        self.ended.clear();
        let state = simulation.state();
        let mut free = vec![false; state.live.len()];
        state.free_live.iter().for_each(|&id| free[id as usize] = true);
        for id in (0..state.live.len()).filter(|&id| !free[id]) {
            self.push_live(simulation, id);
        }
    }

    fn push_live(&mut self, simulation: &Simulation, id: usize) {
        let state = simulation.state();
        let live = &state.live[id];
        let now = state.now;
        let running = live.state == TaskState::Running;
        let host = state.hosts.get(live.host as usize);
        let capacity = host.filter(|_| running).map_or(0.0, |host| host.capacity_mhz);
        let (mut demanded, mut supplied, mut gpu_supplied) =
            (live.demanded_mhz_ms, live.supplied_mhz_ms, live.gpu_supplied_mhz_ms);
        let (mut usage, mut demand, mut gpu_usage, mut gpu_demand) = (0.0, 0.0, 0.0, 0.0);
        let mut up_ms = live.up_ms;
        if running {
            let slot = &state.slots[live.slot as usize];
            let dt = (now - slot.since_ms) as f64;
            (usage, demand, gpu_usage, gpu_demand) =
                (slot.cpu_supply_mhz.max(0.0), slot.cpu_mhz, slot.gpu_supply_mhz, slot.gpu_mhz);
            demanded += slot.demanded_mhz_ms + demand * dt;
            supplied += slot.supplied_mhz_ms + usage * dt;
            gpu_supplied += slot.gpu_supplied_mhz_ms + gpu_usage * dt;
            up_ms += now - live.scheduled_ms.unwrap_or(now);
        }
        let seconds = |work: f64, capacity: f64| if capacity > 0.0 { (work / capacity / 1000.0) as i64 } else { 0 };
        let gpu_capacity = host.filter(|_| running).map_or(0.0, |host| gpu_capacity_mhz(simulation, host.class));
        let total = TaskTotals {
            active_s: seconds(supplied, capacity),
            idle_s: (up_ms / 1000 - seconds(supplied, capacity)).max(0),
            steal_s: seconds(demanded - supplied, capacity),
            gpu_active_s: seconds(gpu_supplied, gpu_capacity),
            up_ms,
            demanded_mhz_ms: demanded,
            supplied_mhz_ms: supplied,
            gpu_supplied_mhz_ms: gpu_supplied,
        };
        let index = live.index as usize;
        if self.task_totals.len() <= index {
            self.task_totals.resize(simulation.workload(live.chunk).len(), TaskTotals::default());
        }
        let last = self.task_totals[index];
        let times = match (running, simulation.model().options.reference_task_times) {
            (false, _) => TaskTimes::default(),
            (true, true) => total.reference_since(&last),
            (true, false) => total.since(&last, capacity, gpu_capacity),
        };
        if running {
            self.task_totals[index] = total;
        }
        let batch = &mut self.task;
        batch.timestamp_ms.push(now);
        batch.task.push(live.index);
        batch.host.push(live.host);
        batch.cpu_limit_mhz.push(capacity as f32);
        batch.cpu_usage_mhz.push(usage as f32);
        batch.cpu_demand_mhz.push(demand as f32);
        batch.cpu_time_active.push(times.active);
        batch.cpu_time_idle.push(times.idle);
        batch.cpu_time_steal.push(times.steal);
        batch.gpu_limit_mhz.push(gpu_capacity as f32);
        batch.gpu_usage_mhz.push(gpu_usage as f32);
        batch.gpu_demand_mhz.push(gpu_demand as f32);
        batch.gpu_time_active.push(times.gpu_active);
        for column in [&mut batch.gpu_time_idle, &mut batch.gpu_time_steal, &mut batch.gpu_time_lost] {
            column.push(0);
        }
        batch.uptime_ms.push(if running { total.up_ms - last.up_ms } else { 0 });
        batch.downtime_ms.push(0);
        batch.num_failures.push(i64::from(live.failures));
        batch.num_pauses.push(i64::from(live.pauses));
        batch.schedule_time_ms.push(live.scheduled_ms.unwrap_or(UNKNOWN_MS));
        batch.finish_time_ms.push(live.finished_ms.unwrap_or(UNKNOWN_MS));
        batch.state.push(match live.state {
            TaskState::Blocked => 0,
            TaskState::Queued => 1,
            TaskState::Running => 2,
            TaskState::Failed => 3,
            TaskState::Paused => 4,
            TaskState::Completed => 5,
            TaskState::Terminated => 6,
        });
        batch.scheduling_delay_ms.push(live.scheduling_delay_ms);
        batch.failure_delay_ms.push(live.failure_delay_ms);
        batch.checkpoint_delay_ms.push(live.checkpoint_delay_ms);
    }

    /// The last row of a task: the reference never reports the part between the last sample and the end.
    fn push_ended(&mut self, simulation: &Simulation, result: &TaskResult) {
        let last = self.task_totals.get(result.index as usize).copied().unwrap_or_default();
        let total = TaskTotals {
            up_ms: result.up_ms,
            demanded_mhz_ms: result.demanded_mhz_ms,
            supplied_mhz_ms: result.supplied_mhz_ms,
            gpu_supplied_mhz_ms: result.gpu_supplied_mhz_ms,
            ..TaskTotals::default()
        };
        let times = match simulation.state().hosts.get(result.host as usize) {
            Some(host) if !simulation.model().options.reference_task_times => {
                total.since(&last, host.capacity_mhz, gpu_capacity_mhz(simulation, host.class))
            }
            _ => TaskTimes::default(),
        };
        let batch = &mut self.task;
        batch.timestamp_ms.push(self.last_ms);
        batch.task.push(result.index);
        batch.host.push(if result.host == NO_HOST { NO_HOST } else { result.host });
        for column in [&mut batch.cpu_limit_mhz, &mut batch.cpu_usage_mhz, &mut batch.cpu_demand_mhz] {
            column.push(0.0);
        }
        for column in [&mut batch.gpu_limit_mhz, &mut batch.gpu_usage_mhz, &mut batch.gpu_demand_mhz] {
            column.push(0.0);
        }
        batch.cpu_time_active.push(times.active);
        batch.cpu_time_idle.push(times.idle);
        batch.cpu_time_steal.push(times.steal);
        batch.gpu_time_active.push(times.gpu_active);
        for column in
            [&mut batch.gpu_time_idle, &mut batch.gpu_time_steal, &mut batch.gpu_time_lost, &mut batch.downtime_ms]
        {
            column.push(0);
        }
        batch.uptime_ms.push(result.up_ms - last.up_ms);
        batch.num_failures.push(i64::from(result.failures));
        batch.num_pauses.push(i64::from(result.pauses));
        batch.schedule_time_ms.push(result.scheduled_ms.unwrap_or(UNKNOWN_MS));
        batch.finish_time_ms.push(result.finished_ms.unwrap_or(UNKNOWN_MS));
        batch.state.push(if result.state == TaskState::Completed { 5 } else { 6 });
        batch.scheduling_delay_ms.push(result.scheduling_delay_ms);
        batch.failure_delay_ms.push(result.failure_delay_ms);
        batch.checkpoint_delay_ms.push(result.checkpoint_delay_ms);
    }

    fn sample_sources(&mut self, simulation: &Simulation) {
        let state = simulation.state();
        self.source_totals.resize(state.clusters.len(), (0.0, 0.0));
        self.battery_totals.resize(state.clusters.len(), 0.0);
        let mut scratch = std::mem::take(&mut self.scratch);
        simulation.load_w(&mut scratch);
        for (index, &load) in scratch.iter().enumerate() {
            self.source.timestamp_ms.push(state.now);
            self.source.source.push(index as u32);
            self.source.power_draw_w.push(simulation.grid_power_w(index, load) as f32);
            self.source.carbon_intensity_g_per_kwh.push(state.clusters[index].intensity_g_per_kwh as f32);
        }
        simulation.load_energy_j(&mut scratch);
        for (index, &load) in scratch.iter().enumerate() {
            let energy = simulation.grid_energy_of_load_j(index, load);
            let emission = simulation.emission_of_energy_g(index, energy);
            let last = std::mem::replace(&mut self.source_totals[index], (energy, emission));
            self.source.energy_usage_j.push((energy - last.0) as f32);
            self.source.carbon_emission_g.push((emission - last.1) as f32);
        }
        self.scratch = scratch;
    }

    fn sample_batteries(&mut self, simulation: &Simulation) {
        let state = simulation.state();
        self.battery_totals.resize(state.clusters.len(), 0.0);
        let mut number = 0;
        for (index, cluster) in state.clusters.iter().enumerate() {
            let (Some(battery), Some(model)) = (&cluster.battery, &simulation.model().clusters[index].battery) else {
                continue;
            };
            let energy = simulation.battery_energy_j(index);
            let last = std::mem::replace(&mut self.battery_totals[index], energy);
            // Without a stated lifetime the emission is not known: NaN, as in the reference.
            let life_ms = model.lifetime_years * 365.0 * 24.0 * 3600.0 * 1000.0;
            let rate = if life_ms > 0.0 { model.embodied_carbon_kg * 1000.0 / life_ms } else { f64::NAN };
            self.battery.timestamp_ms.push(state.now);
            self.battery.battery.push(number);
            self.battery.power_draw_w.push(battery.output_w as f32);
            self.battery.energy_usage_j.push((energy - last) as f32);
            self.battery.embodied_carbon_g.push((rate * (state.now - self.last_ms) as f64) as f32);
            self.battery.charge_j.push(simulation.battery_charge_j(index) as f32);
            self.battery.capacity_j.push((model.capacity_kwh * 3_600_000.0) as f32);
            self.battery.state.push(match battery.mode {
                BatteryMode::Charging => 0,
                BatteryMode::Idle => 1,
                BatteryMode::Discharging => 2,
            });
            number += 1;
        }
    }

    fn sample_service(&mut self, simulation: &Simulation) {
        let counts = simulation.counts();
        let (up, down) = simulation.hosts_up_down();
        let batch = &mut self.service;
        batch.timestamp_ms.push(simulation.now_ms());
        batch.hosts_up.push(up as i32);
        batch.hosts_down.push(down as i32);
        batch.tasks_total.push(counts.submitted as i32);
        batch.tasks_pending.push(counts.pending as i32);
        batch.tasks_active.push(counts.active as i32);
        batch.tasks_completed.push(counts.completed as i32);
        batch.tasks_terminated.push(counts.terminated as i32);
    }
}

impl Observer for OutputRecorder {
    fn sample(&mut self, simulation: &Simulation, _closing: bool) {
        let previous = self.last_ms;
        if self.wants(OutputFile::Host) {
            self.sample_hosts(simulation);
        }
        if self.wants(OutputFile::PowerSource) {
            self.sample_sources(simulation);
        }
        if self.wants(OutputFile::Battery) {
            self.sample_batteries(simulation);
        }
        if self.wants(OutputFile::Service) {
            self.sample_service(simulation);
        }
        self.last_ms = simulation.now_ms();
        if self.wants(OutputFile::Task) {
            self.sample_tasks(simulation);
        }
        debug_assert!(previous <= self.last_ms);
        if self.failure.is_none()
            && let Err(failure) = self.flush(BATCH_ROWS)
        {
            self.failure = Some(failure);
        }
    }

    fn task_ended(&mut self, _: &Simulation, result: &TaskResult) {
        if self.wants(OutputFile::Task) {
            self.ended.push(result.clone());
        }
    }
}

fn gpu_capacity_mhz(simulation: &Simulation, class: u32) -> f64 {
    let class = &simulation.model().classes[class as usize];
    class.gpu.as_ref().map_or(0.0, |gpu| gpu.device_mhz * f64::from(gpu.count))
}

fn push_gpu(column: &mut GpuColumns, simulation: &Simulation, host: usize, gpu: usize, dt_ms: i64) {
    let state = &simulation.state().hosts[host];
    let model =
        simulation.model().classes[state.class as usize].gpu.as_ref().filter(|model| gpu < model.count as usize);
    let Some(model) = model else {
        for floats in [
            &mut column.capacity_mhz,
            &mut column.usage_mhz,
            &mut column.demand_mhz,
            &mut column.utilization_ratio,
            &mut column.power_draw_w,
        ] {
            floats.push(f32::NAN);
        }
        for times in
            [&mut column.time_active_ms, &mut column.time_idle_ms, &mut column.time_steal_ms, &mut column.time_lost_ms]
        {
            times.push(UNKNOWN_MS);
        }
        return;
    };
    let count = f64::from(model.count);
    let (demand, usage) = (state.gpu_demand_mhz / count, state.gpu_usage_mhz / count);
    let utilization = (demand / model.device_mhz).min(1.0);
    let active = (usage / model.device_mhz * dt_ms as f64).round() as i64;
    column.capacity_mhz.push(model.device_mhz as f32);
    column.usage_mhz.push(usage as f32);
    column.demand_mhz.push(demand as f32);
    column.utilization_ratio.push(utilization as f32);
    column.time_active_ms.push(active);
    column.time_idle_ms.push(dt_ms - active);
    column.time_steal_ms.push(((demand - usage) / model.device_mhz * dt_ms as f64).round() as i64);
    column.time_lost_ms.push(0);
    column.power_draw_w.push((state.gpu_power_w / count) as f32);
    debug_assert!(state.status != HostStatus::Removed || demand == 0.0);
}
