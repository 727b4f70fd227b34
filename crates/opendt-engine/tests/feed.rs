//! A simulation that is fed what has ended, window by window, goes through the states of one that knew everything.
//!
//! On seeded random systems with queueing and contention, both scaling policies. Consecutive fragments of a task differ in
//! demand, as in the slow kernel's test and for the same reason.

use opendt_engine::feed::{Food, Wait};
use opendt_engine::series::TaskKey;
use opendt_engine::spec::{Cluster, HostGroup, Options, PowerModel, ScalingPolicy, Topology};
use opendt_engine::workload::{TaskIds, Usage};
use opendt_engine::{EngineError, Recorder, Series, Simulation, TaskResult, Workload};
use std::sync::Arc;

/// A small generator of its own: what tests draw must not depend on what they test.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

struct Task {
    submission_ms: i64,
    cores: u32,
    fragments: Vec<(u32, f64)>,
    /// Tasks that must complete first, all of them earlier ones.
    parents: Vec<u32>,
}

/// Lets a third of the tasks wait for one or two earlier ones.
fn add_parents(dice: &mut Dice, tasks: &mut [Task]) {
    for (number, task) in tasks.iter_mut().enumerate().skip(1) {
        if dice.below(3) == 0 {
            task.parents = (0..1 + dice.below(2)).map(|_| dice.below(number as u64) as u32).collect();
            task.parents.sort_unstable();
            task.parents.dedup();
        }
    }
}

fn random_tasks(dice: &mut Dice) -> Vec<Task> {
    let mut tasks: Vec<Task> = (0..5 + dice.below(40))
        .map(|_| Task {
            submission_ms: 100 * dice.below(3000) as i64,
            cores: 1 + dice.below(4) as u32,
            fragments: (0..1 + dice.below(12))
                .map(|i| (100 * (1 + dice.below(300)) as u32, (100 + 2 * dice.below(800) + i % 2) as f64))
                .collect(),
            parents: Vec::new(),
        })
        .collect();
    tasks.sort_by_key(|task| task.submission_ms);
    tasks
}

fn topology(dice: &mut Dice) -> Topology {
    let record = r#"{"name": "host", "count": 3, "core_count": 4, "core_speed_mhz": 1000.0, "memory_mib": 100000}"#;
    let mut group: HostGroup = serde_json::from_str(record).expect("a host group");
    group.count = 1 + dice.below(5) as u32;
    group.power_model = PowerModel::Linear { idle_w: 50.0, max_w: 150.0 };
    let cluster = Cluster { name: "c".into(), hosts: vec![group], power_source: Default::default(), battery: None };
    Topology { clusters: vec![cluster], links: Vec::new() }
}

fn workload(tasks: &[Task], first: usize, whole: bool) -> Workload {
    let n = tasks.len();
    let mut fragment_offset = vec![0];
    let (mut durations, mut demands) = (Vec::new(), Vec::new());
    for task in tasks {
        if whole {
            durations.extend(task.fragments.iter().map(|f| f.0));
            demands.extend(task.fragments.iter().map(|f| f.1));
        }
        fragment_offset.push(durations.len() as u32);
    }
    let inside = |task: &Task| task.parents.iter().filter_map(|&p| p.checked_sub(first as u32)).collect::<Vec<u32>>();
    let parents: Vec<Vec<u32>> = tasks.iter().map(inside).collect();
    let mut parent_offset = vec![0];
    parents.iter().for_each(|those| parent_offset.push(parent_offset[parent_offset.len() - 1] + those.len() as u32));
    if parents.iter().all(Vec::is_empty) {
        parent_offset.clear();
    }
    Workload {
        ids: TaskIds::Int((first as i64..(first + n) as i64).collect()),
        names: Vec::new(),
        submission_ms: tasks.iter().map(|task| task.submission_ms).collect(),
        duration_ms: vec![-1; n],
        cpu_count: tasks.iter().map(|task| task.cores).collect(),
        cpu_capacity_mhz: vec![0.0; n],
        memory_mib: vec![1; n],
        gpu_count: Vec::new(),
        gpu_capacity_mhz: Vec::new(),
        gpu_memory_mib: Vec::new(),
        deferrable: Vec::new(),
        deadline_ms: Vec::new(),
        slowdown: Vec::new(),
        pinned: Vec::new(),
        parent_offset,
        parents: parents.concat(),
        edge_mib: Vec::new(),
        fragment_offset,
        fragment_duration_ms: durations,
        fragment_cpu_mhz: Usage::from_f64(demands),
        fragment_gpu_mhz: None,
    }
}

fn new_simulation(dice: &mut Dice) -> Simulation {
    let scaling_policy = if dice.below(2) == 0 { ScalingPolicy::NoDelay } else { ScalingPolicy::Perfect };
    let options = Options { scaling_policy, ..Options::default() };
    let mut simulation = Simulation::new(&topology(dice), &options).expect("a sound system");
    simulation.set_sampling(Some(1500), true).expect("an interval");
    simulation
}

fn recorder() -> Recorder {
    Recorder { series: Series::new(true), results: Vec::new() }
}

/// Feeds each fragment when it has nominally ended, and advances as far as nothing is guessed.
fn follow(simulation: &mut Simulation, tasks: &[Task], window_ms: i64, end_ms: i64, seen: &mut Recorder) {
    let mut handles: Vec<(u32, u32)> = Vec::new();
    let mut given = vec![0; tasks.len()];
    let mut window_end = 0;
    while window_end < end_ms {
        window_end += window_ms;
        let first = handles.len();
        let count = tasks[first..].iter().take_while(|task| task.submission_ms <= window_end).count();
        if count > 0 {
            let arrived = workload(&tasks[first..first + count], first, false);
            let mut waits = Vec::new();
            for (task, arrived) in tasks.iter().enumerate().skip(first).take(count) {
                let earlier = arrived.parents.iter().filter(|&&parent| (parent as usize) < first);
                // A number may belong to another workload once all tasks of its first one have ended.
                let lasting = earlier
                    .filter(|&&parent| !seen.results.iter().any(|(key, _)| *key == TaskKey::Int(i64::from(parent))));
                waits.extend(
                    lasting.map(|&parent| Wait { task: (task - first) as u32, parent: handles[parent as usize] }),
                );
            }
            let chunk = simulation.submit_open_after(Arc::new(arrived), &waits).expect("tasks to come");
            handles.extend((0..count as u32).map(|index| (chunk, index)));
        }
        let (mut chunk, mut index, mut offset, mut closed) = (Vec::new(), Vec::new(), vec![0], Vec::new());
        let (mut duration_ms, mut cpu_mhz) = (Vec::new(), Vec::new());
        for (number, &(c, i)) in handles.iter().enumerate() {
            let task = &tasks[number];
            let mut end = task.submission_ms;
            let ended = task.fragments.iter().take_while(|f| {
                end += i64::from(f.0);
                end <= window_end
            });
            let ended = ended.count();
            if ended == given[number] {
                continue;
            }
            for fragment in &task.fragments[given[number]..ended] {
                duration_ms.push(fragment.0);
                cpu_mhz.push(fragment.1);
            }
            given[number] = ended;
            chunk.push(c);
            index.push(i);
            offset.push(duration_ms.len() as u32);
            closed.push(ended == task.fragments.len());
        }
        let food = Food {
            chunk: &chunk,
            index: &index,
            offset: &offset,
            duration_ms: &duration_ms,
            cpu_mhz: &cpu_mhz,
            gpu_mhz: &[],
            closed: &closed,
        };
        simulation.feed(&food).expect("columns that fit");
        let mut present = simulation.clone();
        present.advance(window_end, &mut recorder(), &mut || true).expect("a time to come");
        let known_ms = present.held_since_ms().map_or(window_end, |since| window_end.min(since - 1));
        if known_ms > simulation.now_ms() {
            simulation.advance(known_ms, seen, &mut || true).expect("a time to come");
        }
        assert_eq!(simulation.held_since_ms(), None, "nothing is guessed");
    }
}

#[test]
fn a_fed_simulation_equals_one_that_knew_everything() {
    let mut guessed_ms = 0;
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut tasks = random_tasks(&mut dice);
        if seed % 2 == 1 {
            add_parents(&mut dice, &mut tasks);
        }
        let state = dice.0;
        let mut whole = new_simulation(&mut dice);
        dice.0 = state;
        let mut fed = new_simulation(&mut dice);
        whole.submit(Arc::new(workload(&tasks, 0, true))).expect("tasks");
        let window_ms = 100 * (1 + dice.below(400)) as i64;
        let (mut expected, mut seen) = (recorder(), recorder());
        let last = tasks.iter().map(|t| t.fragments.iter().map(|f| i64::from(f.0)).sum::<i64>()).sum::<i64>();
        let end_ms = 300_000 + 4 * last;
        follow(&mut fed, &tasks, window_ms, end_ms, &mut seen);
        whole.advance(fed.now_ms(), &mut expected, &mut || true).expect("a time to come");
        guessed_ms += end_ms - fed.now_ms();
        assert_eq!(expected.series.time_ms, seen.series.time_ms, "seed {seed}");
        assert_eq!(expected.series.power_w, seen.series.power_w, "seed {seed}");
        assert_eq!(expected.series.energy_j, seen.series.energy_j, "seed {seed}");
        assert_eq!(expected.series.basis, seen.series.basis, "seed {seed}");
        let ends = |recorder: &Recorder| -> Vec<_> {
            let end = |r: &TaskResult| (r.submitted_ms, r.ready_ms, r.scheduled_ms, r.finished_ms, r.ideal_ms, r.host);
            recorder.results.iter().map(|(_, r)| end(r)).collect()
        };
        assert_eq!(ends(&expected), ends(&seen), "seed {seed}");
        assert_eq!(expected.results.len(), tasks.len(), "seed {seed}: all have ended");
    }
    assert!(guessed_ms <= 0, "in the end everything is known");
}

#[test]
fn an_open_task_holds_its_last_demand_and_half_its_cores_before_the_first() {
    let mut dice = Dice(1);
    let options = Options::default();
    let mut simulation = Simulation::new(&topology(&mut dice), &options).expect("a sound system");
    let task = Task { submission_ms: 0, cores: 2, fragments: Vec::new(), parents: Vec::new() };
    let chunk = simulation.submit_open(Arc::new(workload(&[task], 0, false))).expect("a task");
    simulation.advance(10_000, &mut recorder(), &mut || true).expect("a time to come");
    let demand = |simulation: &Simulation| simulation.state().demand_mhz.iter().sum::<f64>();
    assert_eq!(demand(&simulation), 1000.0);
    let since = simulation.held_since_ms().expect("a guess");
    let eat = |simulation: &mut Simulation, duration_ms: &[u32], cpu_mhz: &[f64], closed: bool| {
        let offset = [0, duration_ms.len() as u32];
        let food = Food {
            chunk: &[chunk],
            index: &[0],
            offset: &offset,
            duration_ms,
            cpu_mhz,
            gpu_mhz: &[],
            closed: &[closed],
        };
        simulation.feed(&food)
    };
    eat(&mut simulation, &[5_000], &[700.0], false).expect("a piece");
    simulation.advance(12_000, &mut recorder(), &mut || true).expect("a time to come");
    assert_eq!(demand(&simulation), 700.0, "the guess ends when something is known");
    simulation.advance(100_000, &mut recorder(), &mut || true).expect("a time to come");
    assert_eq!(demand(&simulation), 700.0, "held");
    assert_eq!(simulation.held_since_ms(), Some(since), "the first guess counts");
    let restored = Simulation::restore(&simulation.snapshot(true).expect("bytes"), &[]).expect("a simulation");
    let mut conserving = simulation.clone();
    conserving.conserve_work();
    for mut copy in [simulation.clone(), restored, conserving] {
        let mut seen = recorder();
        eat(&mut copy, &[], &[], true).expect("an end");
        copy.advance(100_001, &mut seen, &mut || true).expect("a time to come");
        assert_eq!(copy.counts().completed, 1);
        assert_eq!(seen.results[0].1.ideal_ms, Some(100_000), "what was guessed and lived counts");
    }
    let refused = eat(&mut simulation, &[1], &[f64::NAN], false);
    assert!(matches!(refused, Err(EngineError::Invalid { .. })), "{refused:?}");
}

#[test]
fn a_task_is_given_up_with_a_parent_of_an_earlier_workload() {
    let mut dice = Dice(1);
    let mut simulation = Simulation::new(&topology(&mut dice), &Options::default()).expect("a sound system");
    let task =
        |cores: u32, submission_ms: i64| Task { submission_ms, cores, fragments: Vec::new(), parents: Vec::new() };
    let parent = simulation.submit_open(Arc::new(workload(&[task(1000, 0)], 0, false))).expect("a task");
    let child = Arc::new(workload(&[task(1, 10)], 1, false));
    let wait = |index| Wait { task: 0, parent: (parent, index) };
    let refused = simulation.submit_open_after(Arc::clone(&child), &[wait(1)]);
    assert!(matches!(refused, Err(EngineError::Invalid { .. })), "{refused:?}");
    simulation.submit_open_after(child, &[wait(0)]).expect("a task that waits");
    let restored = Simulation::restore(&simulation.snapshot(true).expect("bytes"), &[]).expect("a simulation");
    for mut copy in [simulation, restored] {
        let mut seen = recorder();
        copy.advance(1_000, &mut seen, &mut || true).expect("a time to come");
        let counts = copy.counts();
        assert_eq!((counts.submitted, counts.terminated, counts.doomed, counts.active), (2, 1, 1, 0));
        assert_eq!(seen.results.len(), 2);
    }
}
