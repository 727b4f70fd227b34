//! The memorizing scheduler (SEMANTICS 3.7): hosts in buckets by number of tasks, fewest first; tasks that fit nowhere are
//! passed over, seven times at most.
//!
//! The reference remembers a lowest bucket and advances it whenever the bucket of the chosen host becomes empty, even if
//! that was not the lowest, so that hosts become invisible. Its placements follow from that and are kept. Deviation: where
//! nothing runs any more and tasks wait, the reference waits for ever; here all hosts become visible again.

use crate::scheduler::Choice;
use crate::sim::Simulation;
use crate::spec::{Allocation, Filter};

const MOST_SKIPS: u32 = 7;
const MOST_REQUESTS: usize = 10_000;

impl Simulation {
    /// Whether the policy counts tasks by host.
    pub(crate) fn memorizes(&self) -> bool {
        matches!(
            self.model.options.allocation,
            Allocation::Memorizing { .. } | Allocation::TimeShift { memorize: true, .. }
        )
    }

    /// Registers a new host.
    pub(crate) fn memorize_host(&mut self, host: usize) {
        if !self.memorizes() {
            return;
        }
        let state = &mut self.s.memorizing;
        state.position.resize(host + 1, 0);
        if state.buckets.is_empty() {
            state.buckets.push(Vec::new());
        }
        state.position[host] = state.buckets[0].len() as u32;
        state.buckets[0].push(host as u32);
    }

    /// A task was placed: the host moves one bucket up.
    pub(crate) fn memorize_placement(&mut self, host: usize) {
        if self.memorizes() {
            let tasks = self.s.views.tasks[host] as usize;
            if self.move_host(host, tasks - 1, tasks) {
                self.s.memorizing.lowest += 1;
            }
        }
    }

    /// A task has left: the host moves one bucket down.
    pub(crate) fn forget_task_of(&mut self, host: usize) {
        if self.memorizes() {
            let tasks = self.s.views.tasks[host] as usize;
            self.move_host(host, tasks + 1, tasks);
            let state = &mut self.s.memorizing;
            if state.lowest == tasks + 1 {
                state.lowest = tasks;
            }
        }
    }

    /// Moves a host between buckets; true when it was the last of its old one.
    fn move_host(&mut self, host: usize, from: usize, to: usize) -> bool {
        let state = &mut self.s.memorizing;
        if state.buckets.len() <= to {
            state.buckets.resize(to + 1, Vec::new());
        }
        let position = state.position[host] as usize;
        state.buckets[from].swap_remove(position);
        if let Some(&moved) = state.buckets[from].get(position) {
            state.position[moved as usize] = position as u32;
        }
        let emptied = state.buckets[from].is_empty();
        state.position[host] = state.buckets[to].len() as u32;
        state.buckets[to].push(host as u32);
        emptied
    }

    /// The first queued task that fits, on the host with the fewest tasks; `shifting` holds deferrable tasks back.
    pub(crate) fn choose_memorized(&mut self, filters: &[Filter], shifting: bool) -> Choice {
        match self.search_buckets(filters, shifting) {
            Choice::Place(position, host) => Choice::Place(position, host),
            _ if self.s.counts.active == 0 && self.s.memorizing.lowest > 0 => {
                self.s.memorizing.lowest = 0;
                self.search_buckets(filters, shifting)
            }
            other => other,
        }
    }

    fn search_buckets(&mut self, filters: &[Filter], shifting: bool) -> Choice {
        let mut first_waiting = None;
        for position in 0..self.s.queue.len().min(MOST_REQUESTS) {
            let id = self.s.queue[position];
            if shifting && self.is_held_back(id, true) {
                continue;
            }
            let live = &self.s.live[id as usize];
            let (data, task, skipped) =
                (self.chunks[live.chunk as usize].data.clone(), live.index as usize, live.skipped);
            let allowed = live.hosts.0..live.hosts.1;
            let state = &self.s.memorizing;
            for bucket in &state.buckets[state.lowest.min(state.buckets.len())..] {
                for &host in bucket {
                    let fits = |filter| self.passes(filter, host as usize, &data, task);
                    if allowed.contains(&host) && filters.iter().all(fits) {
                        return Choice::Place(position, host as usize);
                    }
                    // With nothing running, failing would be for ever: all hosts are tried.
                    if skipped >= MOST_SKIPS && self.s.counts.active > 0 {
                        return Choice::Blocked(position);
                    }
                }
            }
            first_waiting = first_waiting.or(Some(position));
            self.s.live[id as usize].skipped += 1;
        }
        // With nothing running no later cycle would find more.
        match first_waiting {
            Some(position) if self.s.counts.active == 0 => Choice::Blocked(position),
            _ => Choice::Nothing,
        }
    }
}

impl Simulation {
    /// Puts a freshly registered host into the bucket of the tasks it has.
    pub(crate) fn memorize_again(&mut self, host: usize) {
        if self.memorizes() {
            let tasks = self.s.views.tasks[host] as usize;
            if tasks > 0 {
                self.move_host(host, 0, tasks);
            }
        }
    }
}
