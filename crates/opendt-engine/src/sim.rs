//! The simulation: construction, the dispatcher's loop and what can be read at any moment.
//!
//! Order of events (SEMANTICS 2). A small dispatcher queue ordered by (time, number of scheduling) holds ticks, submissions,
//! wake-ups of the scheduler and failures. All changes of flow (fragments, batteries, carbon) share one *engine invocation*
//! an instant, which takes its number when its instant first becomes the engine's earliest deadline. Whether a change at a
//! tick comes before or after the sample follows from these numbers alone.

use crate::error::EngineError;
use crate::model::{Model, host_name};
use crate::observe::Observer;
use crate::queue::{HostQueue, NEVER};
use crate::spec::{Allocation, Options, ScalingPolicy, Topology};
use crate::state::{ChunkState, Counts, Event, EventKind, FailureState, HostViews, MemorizingState, ShiftState, State};
use crate::workload::{NONE, Workload};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, OnceLock};

/// After so many failures in a row without any task on a host, a run gives up: hosts are down whenever they are needed.
const MOST_FAILURES_IN_VAIN: u32 = 1000;

/// Static companions of a workload.
#[derive(Debug)]
pub(crate) struct Children {
    pub offset: Vec<u32>,
    /// Child and position of the edge in `Workload::parents`.
    pub edges: Vec<(u32, u32)>,
}

/// A workload and what was derived from it; shared between forks.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub data: Arc<Workload>,
    pub children: Option<Arc<Children>>,
    /// Of the workload, once it was asked for: hashing a week takes longer than simulating a day of it.
    pub hash: Arc<OnceLock<crate::snapshot::Hash>>,
    /// For ideal run times, once one was asked for.
    pub elapsed: Arc<OnceLock<crate::ideal::Elapsed>>,
}

/// One replica of the simulated system.
///
/// Copying it is a fork: what changes lies in flat arrays, what does not (topology, workloads) is shared.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub(crate) model: Arc<Model>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) s: State,
    /// Scratch space, empty between calls.
    pub(crate) scratch: Scratch,
}

#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub due: Vec<u32>,
    pub due_slots: Vec<(u64, u32)>,
    pub next: Vec<u32>,
    pub ahead: Vec<crate::lone::ReadAhead>,
    pub lone_slot: Vec<u32>,
    pub demand: Vec<f64>,
    pub share: Vec<f64>,
    pub slots: Vec<u32>,
    pub index: crate::placement_index::PlacementIndex,
    pub candidates: Vec<u32>,
    pub weights: Vec<f64>,
    pub raw: Vec<f64>,
    pub bisection: crate::shares::Bisection,
}

impl Clone for Scratch {
    fn clone(&self) -> Self {
        Scratch::default()
    }
}

impl Chunk {
    pub fn new(data: Arc<Workload>) -> Self {
        let children = (!data.parent_offset.is_empty()).then(|| Arc::new(children_of(&data)));
        Chunk { data, children, hash: Arc::default(), elapsed: Arc::default() }
    }
}

impl Simulation {
    /// A simulation at time 0 with no workload.
    ///
    /// # Errors
    /// When the topology or the options hold values that no simulation can use.
    pub fn new(topology: &Topology, options: &Options) -> Result<Self, EngineError> {
        let (model, hosts) = Model::new(topology, options)?;
        let mut simulation = Simulation {
            s: State {
                now: 0,
                sequence: 0,
                events: BinaryHeap::new(),
                invocations: Vec::new(),
                deadline_sequence: 0,
                sample_interval_ms: None,
                samples_settled: false,
                wake_pending: false,
                submit_pending_ms: NEVER,
                conserve_work: false,
                power_w: Vec::new(),
                energy_j: Vec::new(),
                since_ms: Vec::new(),
                usage_mhz: Vec::new(),
                demand_mhz: Vec::new(),
                in_service_mhz: Vec::new(),
                spans: Vec::new(),
                hosts_up: 0,
                hosts_down: 0,
                hosts_busy: 0,
                hosts: Vec::new(),
                views: HostViews::default(),
                calendar: HostQueue::new(0),
                dirty: Vec::new(),
                starting: Vec::new(),
                slots: Vec::new(),
                free_slots: Vec::new(),
                live: Vec::new(),
                free_live: Vec::new(),
                queue: VecDeque::new(),
                chunks: Vec::new(),
                pieces: crate::feed::Pieces::default(),
                clusters: Vec::new(),
                counts: Counts::default(),
                shift: ShiftState::default(),
                memorizing: MemorizingState::default(),
                failures: FailureState::default(),
                placement_draws: 0,
                ended: false,
                closing: false,
                timers: None,
            },
            model: Arc::new(model),
            chunks: Vec::new(),
            scratch: Scratch::default(),
        };
        for (class, ordinal) in hosts {
            simulation.push_host(class, ordinal);
        }
        if simulation.memorizes() {
            simulation.s.timers = Some(crate::timers::Timers::default());
        }
        simulation.start_clusters();
        simulation.start_failures();
        simulation.invoke_engine();
        Ok(simulation)
    }

    /// Takes a sample at every multiple of `interval_ms`; `None` ends sampling.
    ///
    /// A sample comes where the reference puts it among the changes of its instant, or, with `settled`, after all of them.
    ///
    /// # Errors
    /// When the interval is not positive.
    pub fn set_sampling(&mut self, interval_ms: Option<i64>, settled: bool) -> Result<(), EngineError> {
        if let Some(interval) = interval_ms
            && interval < 1
        {
            return Err(EngineError::invalid("sample interval", format!("{interval} ms"), "at least 1 ms"));
        }
        self.s.events.retain(|event| event.0.kind != EventKind::Tick);
        self.s.sample_interval_ms = interval_ms;
        if let Some(interval) = interval_ms {
            let next = self.s.now.div_euclid(interval) * interval + interval;
            self.s.samples_settled = settled;
            self.schedule_tick(next);
        }
        Ok(())
    }

    /// Runs everything up to and including `until_ms`.
    ///
    /// `go_on` is asked every 64 instants; when it says no, the run ends early and `Ok(false)` is returned, with
    /// the simulation whole at the time reached.
    ///
    /// # Errors
    /// When `until_ms` has passed.
    pub fn advance<O: Observer>(
        &mut self,
        until_ms: i64,
        observer: &mut O,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, EngineError> {
        if until_ms < self.s.now {
            return Err(EngineError::Past { asked_ms: until_ms, now_ms: self.s.now });
        }
        self.s.closing = false;
        let mut instants = 0u32;
        while self.step(until_ms, observer) {
            instants += 1;
            if instants & 0x3f == 0 && !go_on() {
                return Ok(false);
            }
        }
        self.s.now = until_ms;
        Ok(true)
    }

    /// Runs until no task is left, with the closing sample of the reference.
    ///
    /// Tasks that can never be placed are terminated instead of waiting for ever. Returns false when `go_on` ended the run.
    pub fn run<O: Observer>(&mut self, observer: &mut O, go_on: &mut dyn FnMut() -> bool) -> bool {
        let mut instants = 0u32;
        let mut end = i64::MAX - 1;
        self.s.closing = true;
        self.s.ended = self.nothing_left() && self.s.sample_interval_ms.is_none();
        loop {
            if self.s.ended && end != self.s.now {
                // What is due at the last instant still happens: a tick there repeats the closing sample.
                end = self.s.now;
            }
            if self.is_stuck() {
                self.give_up(observer);
                continue;
            }
            if !self.step(end, observer) {
                break;
            }
            instants += 1;
            if instants & 0x3f == 0 && !go_on() {
                return false;
            }
        }
        true
    }

    /// Whether live tasks wait for what will never come.
    fn is_stuck(&self) -> bool {
        let idle = self.s.counts.active == 0 && !self.s.queue.is_empty();
        if !idle && !self.s.invocations.is_empty() {
            return false;
        }
        let coming = |kind| matches!(kind, EventKind::Submit | EventKind::Wake | EventKind::Recover(_));
        let nothing_comes = (self.s.invocations.is_empty() || !self.is_carbon_aware())
            && !self.s.events.iter().any(|event| coming(event.0.kind));
        (nothing_comes || self.s.failures.in_vain > MOST_FAILURES_IN_VAIN) && !self.nothing_left()
    }

    /// Does the next thing, if it lies at or before `until`.
    #[inline]
    fn step<O: Observer>(&mut self, until: i64, observer: &mut O) -> bool {
        let invocation = self.s.invocations.last().copied().unwrap_or((NEVER, u64::MAX));
        let event = self.s.events.peek().map_or((NEVER, u64::MAX), |e| (e.0.time, e.0.sequence));
        if invocation.min(event).0 > until {
            return false;
        }
        if invocation < event {
            self.s.invocations.pop();
            self.s.now = invocation.0;
            self.run_engine(observer);
        } else {
            let Some(Reverse(event)) = self.s.events.pop() else { return false };
            self.s.now = event.time;
            self.handle(event.kind, observer);
        }
        true
    }

    fn handle<O: Observer>(&mut self, kind: EventKind, observer: &mut O) {
        match kind {
            EventKind::Tick => self.tick(observer),
            EventKind::Submit => self.submit_due(observer),
            EventKind::Wake => {
                self.schedule_tasks(observer);
                self.s.wake_pending = false;
            }
            EventKind::Fail => self.fail_hosts(observer),
            EventKind::Recover(number) => self.recover_hosts(number),
        }
    }

    fn tick<O: Observer>(&mut self, observer: &mut O) {
        if !self.s.ended || self.model.options.repeat_closing_sample {
            observer.sample(self, false);
        }
        if let Some(interval) = self.s.sample_interval_ms {
            self.schedule_tick(self.s.now + interval);
        }
        if self.s.closing && self.nothing_left() {
            self.s.ended = true;
        }
    }

    /// Whether no task is live or to come.
    pub fn nothing_left(&self) -> bool {
        self.s
            .chunks
            .iter()
            .zip(&self.chunks)
            .all(|(state, chunk)| state.live == 0 && state.cursor as usize >= chunk.data.len())
    }

    /// After a task ended: the closing sample and the end of a run, when it was the last.
    pub(crate) fn note_end<O: Observer>(&mut self, observer: &mut O) {
        if !self.s.closing || !self.nothing_left() {
            return;
        }
        let counts = self.s.counts;
        if counts.doomed == 0 {
            observer.sample(self, true);
            self.s.ended = true;
        } else if self.s.sample_interval_ms.is_none() {
            self.s.ended = true;
        }
    }

    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.s.sequence += 1;
        self.s.sequence
    }

    pub(crate) fn schedule(&mut self, time: i64, kind: EventKind) {
        let sequence = self.next_sequence();
        self.s.events.push(Reverse(Event { time, sequence, kind }));
    }

    fn schedule_tick(&mut self, time: i64) {
        let sequence = self.next_sequence();
        let sequence = if self.s.samples_settled { sequence | LAST_IN_ITS_INSTANT } else { sequence };
        self.s.events.push(Reverse(Event { time, sequence, kind: EventKind::Tick }));
    }

    /// Asks for an engine invocation now, unless one is pending.
    pub(crate) fn invoke_engine(&mut self) {
        self.invoke_engine_at(self.s.now);
    }

    #[inline]
    fn invoke_engine_at(&mut self, time: i64) {
        if self.s.invocations.last().is_none_or(|&(earliest, _)| time < earliest) {
            let sequence = self.next_sequence();
            self.s.invocations.push((time, sequence));
        }
    }

    /// One engine invocation: all due deadlines, then everything they made stale.
    #[inline]
    fn run_engine<O: Observer>(&mut self, observer: &mut O) {
        let now = self.s.now;
        if self.s.calendar.earliest() <= now || self.s.timers.is_some() {
            self.progress_due(now, observer);
        }
        self.update_carbon(observer);
        if !self.s.starting.is_empty() {
            self.start_slots(observer);
        }
        if !self.s.dirty.is_empty() {
            self.refresh_dirty(observer);
        }
        self.update_supplies();
        let mut next = self.s.calendar.earliest();
        for cluster in &self.s.clusters {
            next = next.min(cluster.carbon_deadline_ms);
            if let Some(battery) = &cluster.battery {
                next = next.min(battery.deadline_ms);
            }
        }
        if next != NEVER {
            self.invoke_engine_at(next);
        }
    }

    #[inline(never)]
    fn refresh_dirty<O: Observer>(&mut self, observer: &mut O) {
        let mut dirty = std::mem::take(&mut self.s.dirty);
        for &host in &dirty {
            self.s.hosts[host as usize].dirty = false;
            self.refresh_host(host as usize, observer);
        }
        dirty.clear();
        dirty.append(&mut self.s.dirty);
        self.s.dirty = dirty;
    }

    /// Marks a host for a refresh in the engine invocation of this instant.
    pub(crate) fn mark_dirty(&mut self, host: usize) {
        if !self.s.hosts[host].dirty {
            self.s.hosts[host].dirty = true;
            self.s.dirty.push(host as u32);
        }
    }

    /// Whether work is conserved (else time is).
    #[inline]
    pub(crate) fn conserves_work(&self) -> bool {
        self.s.conserve_work || self.model.options.scaling_policy != ScalingPolicy::NoDelay
    }

    /// Gives the simulation more tasks; all must be submitted at or after its present time.
    ///
    /// # Errors
    /// When a task was due in the past, or names a host or cluster that does not exist. Nothing is taken then.
    pub fn submit(&mut self, workload: Arc<Workload>) -> Result<(), EngineError> {
        self.take_workload(workload).map(drop)
    }

    /// Takes a workload and gives its number.
    pub(crate) fn take_workload(&mut self, workload: Arc<Workload>) -> Result<usize, EngineError> {
        let base = self.model.options.start_epoch_ms;
        for task in 0..workload.len() {
            let submitted = workload.submission_ms[task] - base;
            if submitted < self.s.now {
                return Err(EngineError::Workload {
                    task: workload.ids.text(task),
                    found: format!("submission {submitted} ms after the start"),
                    expected: format!("at or after the simulation's now, {} ms", self.s.now),
                });
            }
            if let Some(name) = workload.pinned.get(task) {
                self.pinned_range(name)?;
            }
        }
        let has_parents = !workload.parent_offset.is_empty();
        let parents_left = |task: usize| workload.parents_of(task).len() as u32;
        let state = ChunkState {
            parents_left: if has_parents { (0..workload.len()).map(parents_left).collect() } else { Vec::new() },
            live_of: if has_parents { vec![NONE; workload.len()] } else { Vec::new() },
            doomed: if has_parents { vec![false; workload.len()] } else { Vec::new() },
            ..ChunkState::default()
        };
        let chunk = Chunk::new(workload);
        let free = (0..self.chunks.len())
            .find(|&i| self.s.chunks[i].live == 0 && self.s.chunks[i].cursor as usize >= self.chunks[i].data.len());
        let number = match free {
            Some(index) => {
                self.chunks[index] = chunk;
                self.s.chunks[index] = state;
                index
            }
            None => {
                self.chunks.push(chunk);
                self.s.chunks.push(state);
                self.chunks.len() - 1
            }
        };
        if has_parents {
            self.keep_order_of_ties();
        }
        self.s.ended = false;
        self.arm_submission();
        Ok(number)
    }

    /// From now on equal deadlines are met in the order of the reference.
    pub(crate) fn keep_order_of_ties(&mut self) {
        if self.s.timers.is_some() {
            return;
        }
        let mut running: Vec<usize> = (0..self.s.hosts.len()).flat_map(|host| self.slots_of(host)).collect();
        running.sort_by_key(|&slot| self.s.slots[slot].deadline_sequence);
        let mut timers = crate::timers::Timers::default();
        for slot in running {
            timers.set(slot_owner(slot as u32), self.s.slots[slot].deadline_ms);
        }
        self.s.timers = Some(timers);
    }

    /// Schedules the next submission, unless an earlier one is pending.
    pub(crate) fn arm_submission(&mut self) {
        let base = self.model.options.start_epoch_ms;
        let next = self.chunks.iter().zip(&self.s.chunks);
        let next = next.filter_map(|(c, s)| c.data.submission_ms.get(s.cursor as usize)).min();
        if let Some(&time) = next {
            let time = (time - base).max(self.s.now);
            if time < self.s.submit_pending_ms {
                self.s.submit_pending_ms = time;
                self.schedule(time, EventKind::Submit);
            }
        }
    }

    // --- reading -------------------------------------------------------------------------------------------------

    /// Present time, ms.
    pub fn now_ms(&self) -> i64 {
        self.s.now
    }

    /// Compiled topology and options.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// State, for recorders.
    pub fn state(&self) -> &State {
        &self.s
    }

    /// The workload at a chunk's index.
    pub fn workload(&self, chunk: u32) -> &Arc<Workload> {
        &self.chunks[chunk as usize].data
    }

    /// Counts of the service.
    pub fn counts(&self) -> Counts {
        self.s.counts
    }

    /// Number of hosts, removed ones included.
    pub fn host_count(&self) -> usize {
        self.s.hosts.len()
    }

    /// Name of a host.
    pub fn host_name(&self, host: usize) -> String {
        let state = &self.s.hosts[host];
        host_name(&self.model.classes[state.class as usize].group.name, state.ordinal)
    }

    /// Index of the cluster of a host.
    pub fn cluster_of(&self, host: usize) -> usize {
        self.model.classes[self.s.hosts[host].class as usize].cluster as usize
    }

    /// Energy used by a host since the start, J, exact to the present moment.
    #[inline]
    pub fn host_energy_j(&self, host: usize) -> f64 {
        energy_now(self.s.energy_j[host], self.s.power_w[host], self.s.since_ms[host], self.s.now as f64)
    }

    /// Power of the hosts of each cluster, W.
    pub fn load_w(&self, per_cluster: &mut Vec<f64>) {
        per_cluster.clear();
        per_cluster.resize(self.s.clusters.len(), 0.0);
        self.sum_by_cluster(&self.s.power_w, per_cluster);
    }

    /// Adds a value of each host to its cluster's total.
    pub(crate) fn sum_by_cluster(&self, values: &[f64], per_cluster: &mut [f64]) {
        for span in &self.s.spans {
            per_cluster[span.cluster as usize] += sum_lanes(&values[span.start as usize..span.end as usize]);
        }
    }

    /// What a sample sums over the hosts of each cluster, all in one pass: power (W), energy since the start (J), CPU
    /// supply, demand and capacity in service (MHz).
    ///
    /// Sums are those of `load_w`, `load_energy_j` and `sum_by_cluster` to the last bit.
    pub(crate) fn sample_sums(&self, per_cluster: &mut Vec<[f64; 5]>) {
        per_cluster.clear();
        per_cluster.resize(self.s.clusters.len(), [0.0; 5]);
        let s = &self.s;
        let now = s.now as f64;
        for span in &s.spans {
            let hosts = span.start as usize..span.end as usize;
            let columns = [&s.power_w, &s.energy_j, &s.since_ms, &s.usage_mhz, &s.demand_mhz, &s.in_service_mhz];
            let [power, energy, since, usage, demand, capacity] =
                columns.map(|column| column[hosts.clone()].as_chunks::<4>());
            let mut lanes = [[0.0; 4]; 5];
            let mut add = |lane: usize, [power, energy, since, usage, demand, capacity]: [f64; 6]| {
                lanes[0][lane] += power;
                lanes[1][lane] += energy_now(energy, power, since, now);
                lanes[2][lane] += usage;
                lanes[3][lane] += demand;
                lanes[4][lane] += capacity;
            };
            let fours = power.0.iter().zip(energy.0).zip(since.0).zip(usage.0).zip(demand.0).zip(capacity.0);
            for (((((power, energy), since), usage), demand), capacity) in fours {
                for lane in 0..4 {
                    add(lane, [power[lane], energy[lane], since[lane], usage[lane], demand[lane], capacity[lane]]);
                }
            }
            for lane in 0..power.1.len() {
                let rest = [power.1, energy.1, since.1, usage.1, demand.1, capacity.1];
                add(lane, rest.map(|column| column[lane]));
            }
            let totals = lanes.map(|lanes| (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
            for (sum, total) in per_cluster[span.cluster as usize].iter_mut().zip(totals) {
                *sum += total;
            }
        }
    }

    /// Energy of the hosts of each cluster since the start, J.
    pub fn load_energy_j(&self, per_cluster: &mut Vec<f64>) {
        per_cluster.clear();
        per_cluster.resize(self.s.clusters.len(), 0.0);
        for span in &self.s.spans {
            per_cluster[span.cluster as usize] += self.energy_lanes(span.start as usize..span.end as usize);
        }
    }

    /// Sum of hosts' energies in four fixed lanes: the same bytes every time, and fast.
    fn energy_lanes(&self, hosts: std::ops::Range<usize>) -> f64 {
        let now = self.s.now as f64;
        let mut lanes = [0.0; 4];
        let mut energy = self.s.energy_j[hosts.clone()].chunks_exact(4);
        let mut power = self.s.power_w[hosts.clone()].chunks_exact(4);
        let mut since = self.s.since_ms[hosts].chunks_exact(4);
        let total = |energy: f64, power: f64, since: f64| energy_now(energy, power, since, now);
        for ((energy, power), since) in energy.by_ref().zip(power.by_ref()).zip(since.by_ref()) {
            for lane in 0..4 {
                lanes[lane] += total(energy[lane], power[lane], since[lane]);
            }
        }
        let rest = energy.remainder().iter().zip(power.remainder()).zip(since.remainder());
        for (lane, ((&energy, &power), &since)) in lanes.iter_mut().zip(rest) {
            *lane += total(energy, power, since);
        }
        (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
    }

    /// Whether the scheduler listens to carbon.
    pub(crate) fn is_carbon_aware(&self) -> bool {
        matches!(self.model.options.allocation, Allocation::TimeShift { .. })
    }

    /// Hosts in service and not.
    pub fn hosts_up_down(&self) -> (u32, u32) {
        (self.s.hosts_up, self.s.hosts_down)
    }
}

/// Puts an event after all that are numbered as they come.
const LAST_IN_ITS_INSTANT: u64 = 1 << 63;

/// Clusters whose carbon has a timer; their owners come before those of slots.
const CARBON_OWNERS: u32 = 64;

/// Owner of a slot's timer.
pub(crate) fn slot_owner(slot: u32) -> u32 {
    CARBON_OWNERS + slot
}

/// Slot of an owner, unless it is a cluster.
pub(crate) fn owned_slot(owner: u32) -> Option<u32> {
    owner.checked_sub(CARBON_OWNERS)
}

/// Owner of the timer of a cluster's carbon.
pub(crate) fn carbon_owner(cluster: usize) -> u32 {
    (cluster as u32).min(CARBON_OWNERS - 1)
}

fn children_of(workload: &Workload) -> Children {
    let n = workload.len();
    let mut offset = vec![0u32; n + 1];
    for &parent in &workload.parents {
        offset[parent as usize + 1] += 1;
    }
    for i in 0..n {
        offset[i + 1] += offset[i];
    }
    let mut fill = offset.clone();
    let mut edges = vec![(0, 0); workload.parents.len()];
    for task in 0..n {
        for edge in workload.parent_offset[task]..workload.parent_offset[task + 1] {
            let parent = workload.parents[edge as usize] as usize;
            edges[fill[parent] as usize] = (task as u32, edge);
            fill[parent] += 1;
        }
    }
    Children { offset, edges }
}

/// Energy of a host at `now` whose meter was last written at `since`, J.
#[inline(always)]
fn energy_now(energy_j: f64, power_w: f64, since: f64, now: f64) -> f64 {
    energy_j + power_w * (now - since) * 1e-3
}

/// Sum in four fixed lanes: independent of history and quick.
pub(crate) fn sum_lanes(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 4];
    let mut chunks = values.chunks_exact(4);
    for chunk in &mut chunks {
        for (sum, value) in lanes.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    for (sum, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *sum += value;
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}
