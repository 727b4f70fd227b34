//! Runs a workload on equal hosts several times and prints the time of each run: for a profiler.
//!
//! `cargo run --release -p opendt-formats --example run_workload -- DIR [TIMES [HOSTS [INTERVAL_MS]]]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use opendt_engine::Simulation;
use opendt_engine::series::Recorder;
use opendt_engine::spec::{Cluster, HostGroup, Options, PowerModel, PowerSource, Sharing, Topology};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: run_workload DIR [TIMES [HOSTS [INTERVAL_MS]]]")?);
    let mut number = |default: i64| arguments.next().map_or(Ok(default), |word| word.parse::<i64>());
    let (times, hosts, interval_ms) = (number(5)?, number(277)?, number(30_000)?);
    let workload = Arc::new(opendt_formats::read_workload(&dir)?.workload);
    let start_epoch_ms = workload.submission_ms.first().copied().unwrap_or(0);
    let options = Options { start_epoch_ms, ..Options::default() };
    for _ in 0..times {
        let mut simulation = Simulation::new(&topology(u32::try_from(hosts)?), &options)?;
        simulation.set_sampling(Some(interval_ms), false)?;
        simulation.submit(Arc::clone(&workload))?;
        let mut recorder = Recorder::default();
        let start = Instant::now();
        simulation.run(&mut recorder, &mut || true);
        let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
        let (last, samples) = (recorder.series.energy_j.last().copied().unwrap_or(0.0), recorder.series.len());
        let power: f64 = recorder.series.power_w.iter().sum();
        println!("{elapsed_ms:8.2} ms  {samples} samples, {last:?} J, {power:?} W in all");
    }
    Ok(())
}

/// One cluster of equal hosts, each of 16 cores.
fn topology(count: u32) -> Topology {
    let group = HostGroup {
        name: "node".to_owned(),
        count,
        core_count: 16,
        core_speed_mhz: 2100.0,
        memory_mib: 128_000_000,
        arch: None,
        power_model: PowerModel::Mse { idle_w: 25.0, max_w: 174.0, calibration_factor: 4.0 },
        cpu_sharing: Sharing::MaxMinFairness,
        gpu: None,
        frequency_exponent: 2.0,
        embodied_carbon_kg: 1000.0,
        lifetime_years: 5.0,
    };
    let power_source = PowerSource::default();
    let cluster = Cluster { name: "C".to_owned(), hosts: vec![group], power_source, battery: None };
    Topology { clusters: vec![cluster], links: Vec::new() }
}
