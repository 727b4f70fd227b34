//! The memorizing scheduler (SEMANTICS 3.7): hosts in buckets by number of tasks, fewest first; tasks that fit nowhere are
//! passed over, seven times at most.
//!
//! Deviation: the reference remembers a lowest bucket and advances it wrongly, so that hosts become invisible and mixed
//! loads never end. Here every bucket is looked at; on equal tasks and hosts the results agree.

use crate::scheduler::Choice;
use crate::sim::Simulation;
use crate::spec::{Allocation, Filter};

const MOST_SKIPS: u32 = 7;
const MOST_REQUESTS: usize = 10_000;

impl Simulation {
    fn memorizes(&self) -> bool {
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
            self.move_host(host, tasks - 1, tasks);
        }
    }

    /// A task has left: the host moves one bucket down.
    pub(crate) fn forget_task_of(&mut self, host: usize) {
        if self.memorizes() {
            let tasks = self.s.views.tasks[host] as usize;
            self.move_host(host, tasks + 1, tasks);
        }
    }

    fn move_host(&mut self, host: usize, from: usize, to: usize) {
        let state = &mut self.s.memorizing;
        if state.buckets.len() <= to {
            state.buckets.resize(to + 1, Vec::new());
        }
        let position = state.position[host] as usize;
        state.buckets[from].swap_remove(position);
        if let Some(&moved) = state.buckets[from].get(position) {
            state.position[moved as usize] = position as u32;
        }
        state.position[host] = state.buckets[to].len() as u32;
        state.buckets[to].push(host as u32);
    }

    /// The first queued task that fits, on the host with the fewest tasks; `shift` holds deferrable tasks back.
    pub(crate) fn choose_memorized(&mut self, filters: &[Filter], shift: Option<()>) -> Choice {
        for position in 0..self.s.queue.len().min(MOST_REQUESTS) {
            let id = self.s.queue[position];
            if shift.is_some() && self.is_held_back(id, true) {
                continue;
            }
            let live = &self.s.live[id as usize];
            let (data, task, skipped) = (self.chunks[live.chunk as usize].data.clone(), live.index as usize, live.skipped);
            let allowed = live.hosts;
            for bucket in &self.s.memorizing.buckets {
                for &host in bucket {
                    let inside = (allowed.0..allowed.1).contains(&host);
                    if inside && filters.iter().all(|filter| self.passes(filter, host as usize, &data, task)) {
                        return Choice::Place(position, host as usize);
                    }
                    if skipped >= MOST_SKIPS {
                        return Choice::Blocked(position);
                    }
                }
            }
            self.s.live[id as usize].skipped += 1;
        }
        if self.s.counts.active == 0 && shift.is_none() && !self.s.queue.is_empty() { Choice::Blocked(0) } else { Choice::Nothing }
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
