//! What-ifs that conserve work take the quick way for lone tasks: it must give the bits of the general way.
//!
//! Hosts of one core hold one task at most, so that max-min fairness and best effort give the same shares; under best effort no
//! host takes the quick way. Demands of nothing, demands above the capacity, fragments without time, equal ones and ends that
//! fall together are all there, and capacity changes now and then.

use opendt_engine::change::{Change, Hosts};
use opendt_engine::rng::{Draw, Purpose};
use opendt_engine::series::Recorder;
use opendt_engine::spec::{Cluster, HostGroup, Options, PowerModel, PowerSource, Sharing, Topology};
use opendt_engine::workload::{TaskIds, Usage};
use opendt_engine::{Simulation, Workload};
use std::sync::Arc;

const CORE_MHZ: f64 = 1000.0;
const HORIZON_MS: i64 = 400_000;
/// Longer than any run: the round-robin never turns.
const NEVER_MS: i64 = i64::MAX / 4;

fn topology(count: u32, cpu_sharing: Sharing) -> Topology {
    let group = HostGroup {
        name: "node".to_owned(),
        count,
        core_count: 1,
        core_speed_mhz: CORE_MHZ,
        memory_mib: 1024,
        arch: None,
        power_model: PowerModel::Sqrt { idle_w: 31.0, max_w: 177.0 },
        cpu_sharing,
        gpu: None,
        frequency_exponent: 2.0,
        embodied_carbon_kg: 1000.0,
        lifetime_years: 5.0,
    };
    let power_source = PowerSource::default();
    let cluster = Cluster { name: "C".to_owned(), hosts: vec![group], power_source, battery: None };
    Topology { clusters: vec![cluster], links: Vec::new() }
}

fn workload(draw: &mut Draw) -> Workload {
    let tasks = 30;
    let (mut offset, mut duration_ms, mut cpu_mhz) = (vec![0], Vec::new(), Vec::new());
    for _ in 0..tasks {
        for _ in 0..1 + draw.below(60) {
            duration_ms.push([0, 1, 1000, 1000, 5000, 5000, 7321][draw.below(7)]);
            cpu_mhz.push([0.0, 300.0, 300.0, 777.7, CORE_MHZ, 1e-3, 1300.0][draw.below(7)] as f32);
        }
        offset.push(duration_ms.len() as u32);
    }
    let mut submission_ms: Vec<i64> = (0..tasks).map(|_| 1000 * draw.below(60) as i64).collect();
    submission_ms.sort_unstable();
    Workload {
        ids: TaskIds::Int((0..tasks as i64).collect()),
        names: Vec::new(),
        submission_ms,
        duration_ms: vec![1000; tasks],
        cpu_count: vec![1; tasks],
        cpu_capacity_mhz: vec![CORE_MHZ; tasks],
        memory_mib: vec![1; tasks],
        gpu_count: Vec::new(),
        gpu_capacity_mhz: Vec::new(),
        gpu_memory_mib: Vec::new(),
        deferrable: Vec::new(),
        deadline_ms: Vec::new(),
        slowdown: Vec::new(),
        pinned: Vec::new(),
        parent_offset: Vec::new(),
        parents: Vec::new(),
        edge_mib: Vec::new(),
        fragment_offset: offset,
        fragment_duration_ms: duration_ms,
        fragment_cpu_mhz: Usage::F32(cpu_mhz),
        fragment_gpu_mhz: None,
    }
}

fn changes(draw: &mut Draw) -> Vec<(i64, Change)> {
    let hosts = || Hosts::Group { group: "node".to_owned() };
    // From the start: where time is kept the quick way does not write meters between fragments of the same demand.
    let mut changes = vec![(0, Change::ConserveWork)];
    for _ in 0..draw.below(5) {
        let (speed, count) = (400.0 + 100.0 * draw.below(8) as f64, Some(1 + draw.below(3) as u32));
        let change = match draw.below(3) {
            0 => {
                Change::ResizeHosts { hosts: hosts(), core_count: None, core_speed_mhz: Some(speed), memory_mib: None }
            }
            1 => Change::ThrottleHosts { hosts: hosts(), speed_ratio: speed / CORE_MHZ },
            _ => Change::RemoveHosts { hosts: hosts(), count, evict: draw.below(2) == 0 },
        };
        changes.push((500 * draw.below(400) as i64, change));
    }
    changes.sort_by_key(|&(time, _)| time);
    changes
}

/// All that is seen of a run, in order, floats as bits.
fn seen(topology: &Topology, workload: &Arc<Workload>, changes: &[(i64, Change)]) -> (Vec<u64>, Vec<String>, usize) {
    let mut simulation = Simulation::new(topology, &Options::default()).expect("a sound topology");
    simulation.set_sampling(Some(3000), false).expect("an interval");
    simulation.submit(Arc::clone(workload)).expect("tasks to come");
    let mut recorder = Recorder::default();
    for (time, change) in changes {
        simulation.advance(*time, &mut recorder, &mut || true).expect("rising times");
        simulation.apply(change, &mut recorder).expect("a change that fits");
    }
    let mut streamed = 0;
    for step in 0..40 {
        let until = HORIZON_MS.max(changes.last().map_or(0, |last| last.0)) / 40 * step;
        if until > simulation.now_ms() {
            simulation.advance(until, &mut recorder, &mut || true).expect("rising times");
            streamed += simulation.state().hosts.iter().filter(|host| host.streams).count();
        }
    }
    let series = &recorder.series;
    let floats = series.power_w.iter().chain(&series.energy_j).chain(&series.usage_mhz).chain(&series.demand_mhz);
    (
        floats.map(|value| value.to_bits()).collect(),
        recorder.results.iter().map(|r| format!("{r:?}")).collect(),
        streamed,
    )
}

#[test]
fn conserved_work_of_lone_tasks_gives_the_same_bits_either_way() {
    let (mut streamed, mut ended) = (0, 0);
    for seed in 0..200 {
        let mut draw = Draw::new(seed, Purpose::Victims, 0, 0);
        let hosts = 2 + draw.below(20) as u32;
        let (workload, changes) = (Arc::new(workload(&mut draw)), changes(&mut draw));
        let quick = seen(&topology(hosts, Sharing::MaxMinFairness), &workload, &changes);
        let general = seen(&topology(hosts, Sharing::BestEffort { update_interval_ms: NEVER_MS }), &workload, &changes);
        assert!(quick.0 == general.0, "other samples, seed {seed}");
        assert_eq!(quick.1, general.1, "tasks, seed {seed}");
        assert_eq!(general.2, 0, "best effort took the quick way");
        streamed += quick.2;
        ended += quick.1.len();
    }
    assert!(streamed > 1000 && ended > 1000, "{streamed} and {ended}: the test shows little");
}
