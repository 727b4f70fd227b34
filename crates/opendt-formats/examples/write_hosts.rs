//! Writes host and task files of the size of a week at 30 s and prints how long it took.
//!
//! `cargo run --release -p opendt-formats --example write_hosts -- DIR [TICKS]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use opendt_engine::workload::TaskIds;
use opendt_formats::output::{
    HostBatch, HostInfo, OutputFile, OutputOptions, OutputWriter, TaskBatch, TaskTable, UNKNOWN_MS,
};

const HOSTS: u32 = 277;
const RUNNING: u32 = 116;
const TASKS: u32 = 7_850;
const TICKS_PER_BATCH: i64 = 64;
const TICK_MS: i64 = 30_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: write_hosts DIR [TICKS]")?);
    let ticks: i64 = arguments.next().map_or(Ok(20_160), |ticks| ticks.parse())?;
    for files in [vec![OutputFile::Host], vec![OutputFile::Task], vec![OutputFile::Host, OutputFile::Task]] {
        let start = Instant::now();
        let mut writer = OutputWriter::create(&dir, &options(&files))?;
        let (mut hosts, mut tasks) = (HostBatch::default(), TaskBatch::default());
        for tick in 1..=ticks {
            if files.contains(&OutputFile::Host) {
                fill_hosts(&mut hosts, tick);
            }
            if files.contains(&OutputFile::Task) {
                fill_tasks(&mut tasks, tick);
            }
            if tick % TICKS_PER_BATCH == 0 {
                writer.host(&mut hosts)?;
                writer.task(&mut tasks)?;
            }
        }
        writer.host(&mut hosts)?;
        writer.task(&mut tasks)?;
        writer.finish()?;
        let elapsed_s = start.elapsed().as_secs_f64();
        let bytes: u64 = std::fs::read_dir(&dir)?.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
        println!("{elapsed_s:6.2} s  {files:?}  {:.1} MB", bytes as f64 / 1e6);
    }
    Ok(())
}

fn options(files: &[OutputFile]) -> OutputOptions {
    let host =
        |n| HostInfo { name: format!("H{n:03}"), cluster: "C01".into(), core_count: 16, memory_mib: 128_000_000 };
    OutputOptions {
        files: files.iter().map(|&file| (file, None)).collect(),
        hosts: (0..HOSTS).map(host).collect(),
        tasks: Arc::new(TaskTable {
            ids: TaskIds::Int((0..TASKS.into()).map(|n| 2_000_000 + n).collect()),
            memory_mib: vec![100; TASKS as usize],
            cpu_count: vec![16; TASKS as usize],
            submission_ms: (0..TASKS.into()).map(|n| n * 77_000).collect(),
            ..TaskTable::default()
        }),
        ..OutputOptions::default()
    }
}

/// A number below `limit` that looks like chance: cheap, and the same in every run.
fn noise(tick: i64, entity: u32, limit: u64) -> u64 {
    let mixed = (tick as u64 * 1_000_003 + u64::from(entity)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) % limit
}

fn fill_hosts(batch: &mut HostBatch, tick: i64) {
    for host in 0..HOSTS {
        let mhz = if host % 5 < 2 { (noise(tick, host, 1_600) * 21) as f32 } else { 0.0 };
        let ratio = mhz / 33_600.0;
        let power_w = 25.0 + 149.0 * ratio * (2.0 - ratio);
        let active_ms = (ratio * TICK_MS as f32) as i64;
        batch.timestamp_ms.push(tick * TICK_MS);
        batch.host.push(host);
        batch.tasks_running.push(i32::from(mhz > 0.0));
        batch.cpu_capacity_mhz.push(33_600.0);
        batch.cpu_usage_mhz.push(mhz);
        batch.cpu_demand_mhz.push(mhz);
        batch.cpu_utilization_ratio.push(ratio);
        batch.cpu_time_active_ms.push(active_ms);
        batch.cpu_time_idle_ms.push(TICK_MS - active_ms);
        batch.cpu_time_steal_ms.push(0);
        batch.power_draw_w.push(power_w);
        batch.energy_usage_j.push(power_w * 30.0);
        batch.embodied_carbon_g.push(0.01);
        batch.uptime_ms.push(TICK_MS);
        batch.downtime_ms.push(0);
        batch.boot_time_ms.push(0);
    }
}

fn fill_tasks(batch: &mut TaskBatch, tick: i64) {
    for slot in 0..RUNNING {
        let task = (slot + (tick / 60) as u32 * 19) % TASKS;
        let mhz = (noise(tick, slot, 1_600) * 21) as f32;
        batch.timestamp_ms.push(tick * TICK_MS);
        batch.task.push(task);
        batch.host.push(slot * 2);
        batch.cpu_limit_mhz.push(33_600.0);
        batch.cpu_usage_mhz.push(mhz);
        batch.cpu_demand_mhz.push(mhz);
        batch.cpu_time_active.push((mhz / 1_120.0) as i64);
        batch.cpu_time_idle.push(30 - (mhz / 1_120.0) as i64);
        batch.cpu_time_steal.push(0);
        batch.uptime_ms.push(TICK_MS);
        batch.downtime_ms.push(0);
        batch.num_failures.push(0);
        batch.num_pauses.push(0);
        batch.schedule_time_ms.push(i64::from(task) * 77_000);
        batch.finish_time_ms.push(UNKNOWN_MS);
        batch.state.push(2);
    }
}
