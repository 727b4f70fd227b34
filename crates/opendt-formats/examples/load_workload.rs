//! Reads a workload folder several times and prints the time of each and the largest memory use of the process.
//!
//! `cargo run --release -p opendt-formats --example load_workload -- DIR [TIMES]`

use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: load_workload DIR [TIMES]")?);
    let times: usize = arguments.next().map_or(Ok(5), |times| times.parse())?;
    for _ in 0..times {
        let start = Instant::now();
        let loaded = opendt_formats::read_workload(&dir)?;
        let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
        println!(
            "{elapsed_ms:8.2} ms  {} tasks, {} dropped, {} fragments",
            loaded.workload.len(),
            loaded.dropped_tasks,
            loaded.workload.fragment_duration_ms.len()
        );
    }
    if let Some(mib) = peak_memory_mib() {
        println!("{mib:8.1} MiB at most");
    }
    Ok(())
}

/// Largest resident memory of this process so far, where the system tells.
fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
