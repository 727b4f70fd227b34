//! A second kernel, as slow and plain as can be, must agree with the real one byte for byte.
//!
//! It follows SEMANTICS literally: one queue of (time, number), a timer for every task that is searched linearly, no wheel,
//! no quick paths, everything recomputed. Compared are the samples (power and energy of every host, as bits), and start, end
//! and host of every task, on seeded random systems: several clusters and classes, ratios and weighers, both scaling
//! policies, the five ways to share, two power models, ticks that coincide with changes.
//!
//! Consecutive fragments of a task differ in demand: where nothing changes the real kernel does not add up energy, and
//! adding in other pieces gives other last bits.

use opendt_engine::spec::{
    Allocation, Cluster, Filter, HostGroup, Options, PowerModel, ScalingPolicy, Sharing, Topology, Weigher,
};
use opendt_engine::state::TaskState;
use opendt_engine::workload::{TaskIds, Usage};
use opendt_engine::{Observer, Simulation, Workload, observe::TaskResult};
use std::collections::BTreeMap;
use std::sync::Arc;

const NEVER: i64 = i64::MAX;

// --- what is compared ------------------------------------------------------------------------------------------------

/// Whether a task completed, its start, its end and its host.
type End = (bool, Option<i64>, Option<i64>, Option<usize>);

#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Time, then the bits of power and energy of every host.
    samples: Vec<(i64, Vec<(u64, u64)>)>,
    ends: BTreeMap<u32, End>,
}

impl Observer for Seen {
    fn sample(&mut self, simulation: &Simulation, _closing: bool) {
        let hosts = 0..simulation.host_count();
        let bits = |h: usize| (simulation.state().power_w[h].to_bits(), simulation.host_energy_j(h).to_bits());
        self.samples.push((simulation.now_ms(), hosts.map(bits).collect()));
    }

    fn task_ended(&mut self, _: &Simulation, r: &TaskResult) {
        let host = (r.host != u32::MAX).then_some(r.host as usize);
        self.ends.insert(r.index, (r.state == TaskState::Completed, r.scheduled_ms, r.finished_ms, host));
    }
}

// --- the slow kernel -------------------------------------------------------------------------------------------------

struct SlowHost {
    group: HostGroup,
    tasks: Vec<usize>,
    demand: f64,
    power_w: f64,
    energy_j: f64,
    since: i64,
    turn: usize,
    turns_at: i64,
    free_cores: f64,
    free_memory: f64,
}

#[derive(Clone)]
struct SlowTask {
    submitted: i64,
    cores: f64,
    memory: f64,
    fragments: Vec<(i64, f64)>,
    next: usize,
    host: Option<usize>,
    started: Option<i64>,
    demand: f64,
    supply: f64,
    work: f64,
    since: i64,
    deadline: i64,
    /// Number of the setting of the deadline.
    number: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Engine,
    Tick,
    Submit,
    Wake,
}

struct Slow {
    now: i64,
    numbers: u64,
    settings: u64,
    queue: Vec<(i64, u64, What)>,
    options: Options,
    interval: i64,
    hosts: Vec<SlowHost>,
    tasks: Vec<SlowTask>,
    submitted: usize,
    waiting: Vec<usize>,
    waking: bool,
    touched: Vec<usize>,
    starting: Vec<usize>,
    left: usize,
    ended: bool,
    seen: Seen,
}

impl Slow {
    fn run(topology: &Topology, options: &Options, workload: &Workload, interval: i64) -> Seen {
        let groups = topology.clusters.iter().flat_map(|cluster| &cluster.hosts);
        let hosts = groups.flat_map(|group| (0..group.count).map(|_| group.clone())).map(|group| SlowHost {
            power_w: power(&group.power_model, 0.0),
            free_cores: f64::from(group.core_count),
            free_memory: group.memory_mib as f64,
            group,
            tasks: Vec::new(),
            demand: 0.0,
            energy_j: 0.0,
            since: 0,
            turn: 0,
            turns_at: NEVER,
        });
        let tasks = (0..workload.len()).map(|t| SlowTask {
            submitted: workload.submission_ms[t],
            cores: f64::from(workload.cpu_count[t]),
            memory: workload.memory_mib[t] as f64,
            fragments: (workload.fragment_offset[t] as usize..workload.fragment_offset[t + 1] as usize)
                .map(|f| (i64::from(workload.fragment_duration_ms[f]), workload.fragment_cpu_mhz.get(f)))
                .collect(),
            next: 0,
            host: None,
            started: None,
            demand: 0.0,
            supply: 0.0,
            work: 0.0,
            since: 0,
            deadline: NEVER,
            number: 0,
        });
        let mut slow = Slow {
            now: 0,
            numbers: 0,
            settings: 0,
            queue: Vec::new(),
            options: options.clone(),
            interval,
            hosts: hosts.collect(),
            left: workload.len(),
            tasks: tasks.collect(),
            submitted: 0,
            waiting: Vec::new(),
            waking: false,
            touched: Vec::new(),
            starting: Vec::new(),
            ended: false,
            seen: Seen::default(),
        };
        slow.call_engine(0);
        slow.schedule(interval, What::Tick);
        slow.schedule_submission();
        slow.loop_to_the_end();
        slow.seen
    }

    fn loop_to_the_end(&mut self) {
        while let Some(first) = (0..self.queue.len()).min_by_key(|&i| (self.queue[i].0, self.queue[i].1)) {
            let (time, _, what) = self.queue[first];
            if self.ended && time > self.now {
                return;
            }
            self.queue.remove(first);
            self.now = time;
            match what {
                What::Engine => self.engine(),
                What::Tick => {
                    self.sample();
                    self.schedule(self.now + self.interval, What::Tick);
                }
                What::Submit => self.submit(),
                What::Wake => {
                    self.place_tasks();
                    self.waking = false;
                }
            }
        }
    }

    fn schedule(&mut self, time: i64, what: What) {
        self.numbers += 1;
        self.queue.push((time, self.numbers, what));
    }

    /// An engine invocation is queued only if it is earlier than all that are.
    fn call_engine(&mut self, time: i64) {
        if !self.queue.iter().any(|&(other, _, what)| what == What::Engine && other <= time) {
            self.schedule(time, What::Engine);
        }
    }

    fn schedule_submission(&mut self) {
        if let Some(task) = self.tasks.get(self.submitted) {
            self.schedule(task.submitted, What::Submit);
        }
    }

    fn submit(&mut self) {
        while self.tasks.get(self.submitted).is_some_and(|task| task.submitted <= self.now) {
            self.waiting.push(self.submitted);
            self.submitted += 1;
            self.request_cycle();
        }
        self.schedule_submission();
    }

    fn request_cycle(&mut self) {
        if !self.waking {
            self.waking = true;
            let quantum = self.options.scheduling_quantum_ms;
            self.schedule((self.now + quantum - 1) / quantum * quantum, What::Wake);
        }
    }

    fn place_tasks(&mut self) {
        while let Some(&task) = self.waiting.first() {
            match self.choose(task) {
                Some(host) => {
                    self.waiting.remove(0);
                    self.settle(host);
                    let (t, h) = (&mut self.tasks[task], &mut self.hosts[host]);
                    (t.host, t.started, t.since) = (Some(host), Some(self.now), self.now);
                    h.tasks.push(task);
                    h.free_cores -= t.cores;
                    h.free_memory -= t.memory;
                    self.starting.push(task);
                    self.touch(host);
                    self.call_engine(self.now);
                }
                None => {
                    let t = &self.tasks[task];
                    let most = |value: fn(&SlowHost) -> f64| self.hosts.iter().map(value).fold(0.0, f64::max);
                    let too_large = t.cores > most(|h| f64::from(h.group.core_count))
                        || t.memory > most(|h| h.group.memory_mib as f64);
                    let nothing_runs = self.hosts.iter().all(|h| h.tasks.is_empty());
                    if !too_large && !nothing_runs {
                        return;
                    }
                    self.waiting.remove(0);
                    self.end(task, false);
                }
            }
        }
    }

    fn choose(&self, task: usize) -> Option<usize> {
        let Allocation::Filter { filters, weighers, .. } = &self.options.allocation else { panic!("only filters") };
        let t = &self.tasks[task];
        let enough = |ratio: f64, total: f64, free: f64, wanted: f64| {
            if ratio == 1.0 { free >= wanted } else { wanted <= total && total * ratio - (total - free) >= wanted }
        };
        let passes = |h: &SlowHost| {
            filters.iter().all(|filter| match *filter {
                Filter::Compute => true,
                Filter::VCpu { allocation_ratio: r } => enough(r, f64::from(h.group.core_count), h.free_cores, t.cores),
                Filter::Ram { allocation_ratio: r } => enough(r, h.group.memory_mib as f64, h.free_memory, t.memory),
                Filter::InstanceCount { limit } => h.tasks.len() < limit as usize,
                _ => panic!("not in this subset"),
            })
        };
        let mut ranked: Vec<(usize, f64)> =
            (0..self.hosts.len()).filter(|&h| passes(&self.hosts[h])).map(|h| (h, 0.0)).collect();
        for weigher in weighers {
            let (multiplier, value): (f64, fn(&SlowHost) -> f64) = match *weigher {
                Weigher::Ram { multiplier } => (multiplier, |h| h.free_memory),
                Weigher::InstanceCount { multiplier } => (multiplier, |h| h.tasks.len() as f64),
                Weigher::VCpu { multiplier, .. } => {
                    (multiplier, |h| 1.0 - (f64::from(h.group.core_count) - h.free_cores))
                }
                _ => panic!("not in this subset"),
            };
            let values: Vec<f64> = ranked.iter().map(|&(h, _)| value(&self.hosts[h])).collect();
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let range = values.iter().copied().fold(f64::from_bits(1), f64::max) - least;
            if range != 0.0 {
                for ((_, weight), value) in ranked.iter_mut().zip(values) {
                    *weight += multiplier / range * (value - least);
                }
            }
        }
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.first().map(|&(host, _)| host)
    }

    fn engine(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].turns_at <= self.now {
                self.hosts[host].turns_at = self.now + turn_ms(&self.hosts[host].group).unwrap_or(NEVER);
                self.touch(host);
            }
        }
        let mut due: Vec<usize> = (0..self.tasks.len()).filter(|&t| self.tasks[t].deadline <= self.now).collect();
        due.sort_by_key(|&task| self.tasks[task].number);
        for task in due {
            let host = self.tasks[task].host.expect("it runs");
            self.settle(host);
            self.go_on(task);
            self.touch(host);
        }
        for task in std::mem::take(&mut self.starting) {
            self.go_on(task);
        }
        for host in std::mem::take(&mut self.touched) {
            self.recompute(host);
        }
        let next = self.tasks.iter().map(|t| t.deadline).chain(self.hosts.iter().map(|h| h.turns_at)).min();
        if let Some(next) = next.filter(|&next| next != NEVER) {
            self.call_engine(next);
        }
    }

    fn touch(&mut self, host: usize) {
        if !self.touched.contains(&host) {
            self.touched.push(host);
        }
    }

    /// Adds the energy used since the last change.
    fn settle(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.energy_j += h.power_w * (self.now - h.since) as f64 * 1e-3;
        h.since = self.now;
    }

    fn perfect(&self) -> bool {
        self.options.scaling_policy == ScalingPolicy::Perfect
    }

    /// Begins the next fragment that takes time, or ends the task.
    fn go_on(&mut self, task: usize) {
        let perfect = self.perfect();
        let t = &mut self.tasks[task];
        while let Some(&(duration, demand)) = t.fragments.get(t.next) {
            t.next += 1;
            if duration == 0 || (perfect && demand == 0.0) {
                continue;
            }
            t.demand = demand;
            t.since = self.now;
            t.work = demand * duration as f64;
            t.supply = f64::NAN; // no supply is the same as none yet
            t.deadline = if perfect { NEVER } else { self.now + duration };
            self.settings += 1;
            t.number = self.settings;
            return;
        }
        t.deadline = NEVER;
        let host = t.host.expect("it runs");
        self.settle(host);
        let (t, h) = (&self.tasks[task], &mut self.hosts[host]);
        h.tasks.retain(|&other| other != task);
        h.free_cores += t.cores;
        h.free_memory += t.memory;
        self.touch(host);
        self.call_engine(self.now);
        self.request_cycle();
        self.end(task, true);
    }

    fn end(&mut self, task: usize, completed: bool) {
        let t = &self.tasks[task];
        let finished = completed.then_some(self.now);
        self.seen.ends.insert(task as u32, (completed, t.started, finished, t.host));
        self.left -= 1;
        if self.left == 0 {
            self.sample();
            self.ended = true;
        }
    }

    fn sample(&mut self) {
        let now = self.now;
        let energy = |h: &SlowHost| h.energy_j + h.power_w * (now - h.since) as f64 * 1e-3;
        let bits = self.hosts.iter().map(|h| (h.power_w.to_bits(), energy(h).to_bits())).collect();
        self.seen.samples.push((now, bits));
    }

    fn recompute(&mut self, host: usize) {
        loop {
            self.settle(host);
            let running = self.hosts[host].tasks.clone();
            self.share(host, &running);
            let mut again = false;
            if self.perfect() {
                for &task in &running {
                    let t = &mut self.tasks[task];
                    let ms = t.work / t.supply;
                    let end = if t.supply > 0.0 && ms < 9e15 { t.since + ms as i64 } else { NEVER };
                    if end != t.deadline {
                        t.deadline = end;
                        self.settings += 1;
                        t.number = self.settings;
                    }
                }
            }
            for &task in &running {
                if self.tasks[task].deadline <= self.now {
                    again = true;
                    self.settle(host);
                    self.go_on(task);
                }
            }
            if !again {
                return;
            }
        }
    }

    fn share(&mut self, host: usize, running: &[usize]) {
        let h = &mut self.hosts[host];
        let capacity = f64::from(h.group.core_count) * h.group.core_speed_mhz;
        let wanted: Vec<f64> = running.iter().map(|&task| self.tasks[task].demand).collect();
        let total: f64 = wanted.iter().sum();
        let n = running.len();
        let mut given = wanted.clone();
        let mut overloaded = total > capacity;
        h.turns_at = match (turn_ms(&h.group), n) {
            (None, _) | (_, 0) => NEVER,
            (Some(interval), _) if h.turns_at == NEVER => self.now + interval,
            _ => h.turns_at,
        };
        let mut demand = total;
        match h.group.cpu_sharing {
            Sharing::EqualShare | Sharing::FixedShare { .. } if n == 0 => demand = h.demand, // it keeps asking
            Sharing::EqualShare => {
                given = vec![capacity / n as f64; n];
                demand = capacity;
            }
            Sharing::FixedShare { share_ratio } => {
                given = vec![share_ratio * capacity; n];
                demand = share_ratio * capacity;
            }
            Sharing::MaxMinFairness if overloaded => {
                let mut rising: Vec<usize> = (0..n).filter(|&i| wanted[i] > 0.0).collect();
                rising.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
                let mut rest = capacity;
                for (done, &i) in rising.iter().enumerate() {
                    given[i] = wanted[i].min(rest / (rising.len() - done) as f64);
                    rest -= given[i];
                }
            }
            Sharing::FirstFit | Sharing::BestEffort { .. } if overloaded => {
                let first = if h.group.cpu_sharing == Sharing::FirstFit { 0 } else { h.turn };
                let mut rest = capacity;
                for i in (0..n).map(|step| (first + step) % n) {
                    given[i] = wanted[i].min(rest);
                    rest -= given[i];
                }
            }
            _ => overloaded = false,
        }
        if overloaded && demand > capacity {
            h.turn = (h.turn + 1) % n;
        }
        for (&task, &supply) in running.iter().zip(&given) {
            let t = &mut self.tasks[task];
            if t.supply != supply {
                if t.supply.is_finite() {
                    t.work -= t.supply * (self.now - t.since) as f64;
                    t.since = self.now;
                }
                t.supply = supply;
            }
        }
        h.demand = demand;
        h.power_w = power(&h.group.power_model, (demand / capacity).min(1.0));
    }
}

fn turn_ms(group: &HostGroup) -> Option<i64> {
    match group.cpu_sharing {
        Sharing::BestEffort { update_interval_ms } => Some(update_interval_ms),
        _ => None,
    }
}

fn power(model: &PowerModel, u: f64) -> f64 {
    match *model {
        PowerModel::Linear { idle_w, max_w } => idle_w + (max_w - idle_w) * u,
        PowerModel::Mse { idle_w, max_w, calibration_factor } => {
            idle_w + (max_w - idle_w) * (2.0 * u - u.powf(calibration_factor))
        }
        _ => panic!("not in this subset"),
    }
}

// --- random systems --------------------------------------------------------------------------------------------------

/// A small generator of its own: what tests draw must not depend on what they test.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize].clone()
    }
}

fn random_topology(dice: &mut Dice) -> Topology {
    let sharings = [
        Sharing::MaxMinFairness,
        Sharing::MaxMinFairness,
        Sharing::FirstFit,
        Sharing::EqualShare,
        Sharing::FixedShare { share_ratio: 0.3 },
        Sharing::BestEffort { update_interval_ms: 700 },
    ];
    let clusters = (0..1 + dice.below(3)).map(|c| {
        let hosts = (0..1 + dice.below(3)).map(|g| {
            let (idle_w, max_w) = (30.0 + dice.below(100) as f64, 150.0 + dice.below(200) as f64);
            let curved = PowerModel::Mse { idle_w, max_w, calibration_factor: dice.of(&[1.3, 2.7]) };
            let record = format!(
                r#"{{"name": "{c}-{g}", "count": {}, "core_count": {}, "core_speed_mhz": {}, "memory_mib": {}}}"#,
                1 + dice.below(4),
                1 + dice.below(6),
                dice.of(&[1000.0, 1700.0, 2333.3]),
                dice.of(&[600, 1000, 2000]),
            );
            let mut group: HostGroup = serde_json::from_str(&record).expect("a host group");
            group.power_model = dice.of(&[PowerModel::Linear { idle_w, max_w }, curved]);
            group.cpu_sharing = dice.of(&sharings);
            group
        });
        let hosts = hosts.collect();
        Cluster { name: format!("cluster {c}"), hosts, power_source: Default::default(), battery: None }
    });
    Topology { clusters: clusters.collect(), links: Vec::new() }
}

fn random_options(dice: &mut Dice) -> Options {
    let mut filters = vec![
        Filter::Compute,
        Filter::VCpu { allocation_ratio: dice.of(&[1.0, 1.0, 2.0, 5.0]) },
        Filter::Ram { allocation_ratio: dice.of(&[1.0, 1.5]) },
    ];
    if dice.below(4) == 0 {
        filters.push(Filter::InstanceCount { limit: 2 });
    }
    let weighers = [
        Weigher::Ram { multiplier: 1.0 },
        Weigher::Ram { multiplier: -1.0 },
        Weigher::InstanceCount { multiplier: -1.0 },
        Weigher::VCpu { multiplier: 1.0, allocation_ratio: 1.0 },
    ];
    Options {
        scaling_policy: dice.of(&[ScalingPolicy::NoDelay, ScalingPolicy::Perfect]),
        scheduling_quantum_ms: dice.of(&[1, 300, 1000]),
        allocation: Allocation::Filter {
            filters,
            weighers: (0..dice.below(3)).map(|_| dice.of(&weighers)).collect(),
            subset_size: 1,
        },
        ..Options::default()
    }
}

fn random_workload(dice: &mut Dice) -> Workload {
    let n = 1 + dice.below(24) as usize;
    let mut submission_ms: Vec<i64> = (0..n).map(|_| dice.of(&[0, 0, 1, 250, 1000]) * dice.below(8) as i64).collect();
    submission_ms.sort_unstable();
    let (mut fragment_offset, mut durations, mut demands) = (vec![0], Vec::new(), Vec::new());
    for _ in 0..n {
        let mut last = -1.0;
        for _ in 0..1 + dice.below(5) {
            let demand = dice.of(&[0.0, 100.0, 1000.0, 1333.3, 2500.0, 9000.0]);
            if demand != last {
                demands.push(demand);
                durations.push(dice.of(&[1, 2, 250, 500, 700, 1000, 3001]));
                last = demand;
            }
        }
        fragment_offset.push(durations.len() as u32);
    }
    Workload {
        ids: TaskIds::Int((0..n as i64).collect()),
        names: Vec::new(),
        submission_ms,
        duration_ms: vec![0; n],
        cpu_count: (0..n).map(|_| dice.of(&[1, 1, 2, 4, 7])).collect(),
        cpu_capacity_mhz: vec![0.0; n],
        memory_mib: (0..n).map(|_| dice.of(&[0, 100, 300, 900])).collect(),
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
        fragment_offset,
        fragment_duration_ms: durations,
        fragment_cpu_mhz: Usage::from_f64(demands),
        fragment_gpu_mhz: None,
    }
}

#[test]
fn both_kernels_agree_to_the_last_bit() {
    let soak = std::env::var("OPENDT_SOAK").is_ok_and(|value| value == "1");
    let cases = if soak { 20_000 } else { 300 };
    let (mut completed, mut waited, mut samples) = (0, 0, 0);
    for seed in 0..cases {
        let mut dice = Dice(seed * 7919 + 1);
        let (topology, options, workload) =
            (random_topology(&mut dice), random_options(&mut dice), random_workload(&mut dice));
        let interval = dice.of(&[250, 500, 999, 1000]);
        let slow = Slow::run(&topology, &options, &workload, interval);
        let mut quick = Seen::default();
        let mut simulation = Simulation::new(&topology, &options).expect("a sound system");
        simulation.set_sampling(Some(interval), false).expect("a positive interval");
        simulation.submit(Arc::new(workload.clone())).expect("sound tasks");
        assert!(simulation.run(&mut quick, &mut || true));
        let about = || format!("seed {seed}\n{options:#?}\n{topology:#?}\n{workload:#?}");
        assert_eq!(slow.ends, quick.ends, "{}", about());
        assert_eq!(slow.samples, quick.samples, "{}", about());
        completed += slow.ends.values().filter(|end| end.0).count();
        waited += slow.ends.iter().filter(|(t, end)| end.1 > Some(workload.submission_ms[**t as usize])).count();
        samples += slow.samples.len();
    }
    // A comparison of nothing would agree too.
    assert!(completed > 5 * cases as usize && waited > cases as usize && samples > 5 * cases as usize);
}
