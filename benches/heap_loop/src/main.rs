//! Yardstick: the SURF week through a plain binary heap over tasks, an event per fragment.
//!
//! What one would write in Rust without thinking about speed: `BinaryHeap` of (time, task), a stack of free hosts, each
//! host's energy integrated at every change of its power, all hosts summed every 30 s. Only the loop is timed.
//!
//! `heap-loop FILE REPEATS` reads what `benches/data.py` exports and prints one JSON object.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hint::black_box;
use std::time::Instant;

const HOSTS: usize = 277;
const CAPACITY_MHZ: f64 = 16.0 * 2100.0;
const IDLE_W: f64 = 25.0;
const MAX_W: f64 = 174.0;
const SAMPLE_MS: i64 = 30_000;

/// Tasks by submission; fragments of task `i` are `offset[i]..offset[i + 1]`.
struct Week {
    submission_ms: Vec<i64>,
    offset: Vec<i64>,
    duration_ms: Vec<i64>,
    usage_mhz: Vec<f64>,
}

impl Week {
    fn read(path: &str) -> std::io::Result<Week> {
        let bytes = std::fs::read(path)?;
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().expect("eight bytes"));
        let mut column = |count: usize| words.by_ref().take(count).map(i64::from_le_bytes).collect::<Vec<i64>>();
        let counts = column(2);
        let (tasks, fragments) = (counts[0] as usize, counts[1] as usize);
        let (submission_ms, offset, duration_ms) = (column(tasks), column(tasks + 1), column(fragments));
        let usage_mhz = column(fragments).into_iter().map(|word| f64::from_bits(word as u64)).collect();
        Ok(Week { submission_ms, offset, duration_ms, usage_mhz })
    }
}

#[derive(Clone, Copy)]
struct Host {
    power_w: f64,
    since_ms: i64,
    energy_j: f64,
}

impl Host {
    fn set_usage(&mut self, now_ms: i64, usage_mhz: f64) {
        self.energy_j += self.power_w * (now_ms - self.since_ms) as f64 / 1000.0;
        self.since_ms = now_ms;
        let u = (usage_mhz / CAPACITY_MHZ).min(1.0);
        self.power_w = IDLE_W + (MAX_W - IDLE_W) * (2.0 * u - u.powi(4));
    }
}

struct Outcome {
    energy_j: f64,
    power_w: Vec<f64>,
}

/// Runs the week to its end.
fn simulate(week: &Week) -> Outcome {
    let mut hosts = [Host { power_w: IDLE_W, since_ms: 0, energy_j: 0.0 }; HOSTS];
    let mut free: Vec<usize> = (0..HOSTS).rev().collect();
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let mut place: Vec<usize> = vec![0; week.submission_ms.len()];
    let mut next: Vec<i64> = week.offset.clone();
    let mut started = vec![false; week.submission_ms.len()];
    let mut events: BinaryHeap<Reverse<(i64, usize)>> =
        week.submission_ms.iter().enumerate().map(|(task, &time_ms)| Reverse((time_ms, task))).collect();
    let mut power_w = Vec::new();
    let mut sample_ms = SAMPLE_MS;
    let mut now_ms = 0;

    while let Some(Reverse((time_ms, task))) = events.pop() {
        // At one time the sample comes first: it shows what held up to now.
        while sample_ms <= time_ms {
            power_w.push(hosts.iter().map(|host| host.power_w).sum());
            sample_ms += SAMPLE_MS;
        }
        now_ms = time_ms;
        let finished = started[task] && next[task] == week.offset[task + 1];
        if finished {
            hosts[place[task]].set_usage(now_ms, 0.0);
            free.push(place[task]);
        } else if !started[task] {
            waiting.push_back(task);
        }
        let ready = if started[task] && !finished {
            Some(task)
        } else if let (Some(&host), Some(&first)) = (free.last(), waiting.front()) {
            free.pop();
            waiting.pop_front();
            place[first] = host;
            started[first] = true;
            Some(first)
        } else {
            None
        };
        if let Some(task) = ready {
            let fragment = next[task] as usize;
            hosts[place[task]].set_usage(now_ms, week.usage_mhz[fragment]);
            next[task] += 1;
            events.push(Reverse((now_ms + week.duration_ms[fragment], task)));
        }
    }
    for host in &mut hosts {
        host.set_usage(now_ms, 0.0);
    }
    Outcome { energy_j: hosts.iter().map(|host| host.energy_j).sum(), power_w }
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, repeats] = &arguments[..] else {
        eprintln!("usage: heap-loop FILE REPEATS");
        std::process::exit(2);
    };
    let week = Week::read(path)?;
    let mut outcome = simulate(&week); // warms up
    let mut loop_ms = Vec::new();
    for _ in 0..repeats.parse().expect("REPEATS is a number") {
        let started = Instant::now();
        outcome = simulate(black_box(&week));
        loop_ms.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let sampled_w: f64 = outcome.power_w.iter().sum();
    println!(
        "{{\"loop_ms\": {loop_ms:?}, \"energy_j\": {:?}, \"samples\": {}, \"sampled_w\": {sampled_w:?}}}",
        outcome.energy_j,
        outcome.power_w.len()
    );
    Ok(())
}
