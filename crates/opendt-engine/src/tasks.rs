//! The life of a task: submission, placement, completion, failure, pause, termination, and what children wait for.

use crate::error::EngineError;
use crate::observe::{Observer, TaskResult};
use crate::queue::NEVER;
use crate::sim::Simulation;
use crate::state::{EventKind, Fragment, HostStatus, Live, Slot, TaskState};
use crate::workload::NONE;

impl Simulation {
    /// Submits all tasks that are due, in order of time and then of arrival.
    pub(crate) fn submit_due<O: Observer>(&mut self, observer: &mut O) {
        let base = self.model.options.start_epoch_ms;
        let now = self.s.now;
        self.s.submit_pending_ms = NEVER;
        for chunk in 0..self.chunks.len() {
            loop {
                let cursor = self.s.chunks[chunk].cursor;
                match self.chunks[chunk].data.submission_ms.get(cursor as usize) {
                    Some(&time) if time - base <= now => {
                        self.s.chunks[chunk].cursor += 1;
                        self.submit_task(chunk as u32, cursor, observer);
                    }
                    _ => break,
                }
            }
        }
        self.arm_submission();
    }

    fn submit_task<O: Observer>(&mut self, chunk: u32, index: u32, observer: &mut O) {
        let now = self.s.now;
        let data = self.chunks[chunk as usize].data.clone();
        self.s.counts.submitted += 1;
        let state = &mut self.s.chunks[chunk as usize];
        state.live += 1;
        let blocked = state.parents_left.get(index as usize).is_some_and(|&left| left > 0);
        let doomed = state.doomed.get(index as usize).copied().unwrap_or(false);
        let inputs = state.early_inputs.remove(&index).unwrap_or_default();
        let pinned = data.pinned.get(index as usize).map_or("", |name| name);
        let live = Live {
            chunk,
            index,
            state: TaskState::Blocked,
            submitted_ms: now,
            ready_ms: now,
            scheduled_ms: None,
            finished_ms: None,
            slot: NONE,
            host: NONE,
            failures: 0,
            pauses: 0,
            skipped: 0,
            // Checked when the workload came; a host removed since then leaves an empty range.
            hosts: self.pinned_range(pinned).unwrap_or((0, 0)),
            saved_cursor: data.fragment_offset[index as usize],
            saved: Vec::new(),
            queued_ms: now,
            scheduling_delay_ms: 0,
            failure_delay_ms: 0,
            checkpoint_delay_ms: 0,
            energy_j: 0.0,
            demanded_mhz_ms: 0.0,
            supplied_mhz_ms: 0.0,
            gpu_supplied_mhz_ms: 0.0,
            own_stop: data.fragment_offset[index as usize + 1],
            told_ms: 0,
            inputs,
            up_ms: 0,
        };
        let id = match self.s.free_live.pop() {
            Some(id) => {
                self.s.live[id as usize] = live;
                id
            }
            None => {
                self.s.live.push(live);
                self.s.live.len() as u32 - 1
            }
        };
        let state = &mut self.s.chunks[chunk as usize];
        if !state.live_of.is_empty() {
            state.live_of[index as usize] = id;
        }
        if doomed {
            self.s.counts.doomed += 1;
            self.end_task(id, TaskState::Terminated, observer);
        } else if !blocked {
            self.enqueue(id, TaskState::Queued, false);
        }
    }

    /// Puts a task into the queue and asks for a scheduling cycle.
    pub(crate) fn enqueue(&mut self, id: u32, state: TaskState, at_front: bool) {
        let live = &mut self.s.live[id as usize];
        live.state = state;
        live.skipped = 0;
        live.queued_ms = self.s.now;
        if at_front {
            self.s.queue.push_front(id);
        } else {
            self.s.queue.push_back(id);
        }
        self.s.counts.pending += 1;
        self.request_scheduling();
    }

    /// Arms the scheduler at the next multiple of the quantum, unless it is armed.
    pub(crate) fn request_scheduling(&mut self) {
        if self.s.wake_pending {
            return;
        }
        self.s.wake_pending = true;
        let quantum = self.model.options.scheduling_quantum_ms;
        let now = self.s.now;
        let base = now.rem_euclid(quantum);
        let time = if base == 0 { now } else { now - base + quantum };
        self.schedule(time, EventKind::Wake);
    }

    /// Starts a queued task on a host.
    pub(crate) fn place(&mut self, id: u32, host: usize) {
        let now = self.s.now;
        let interval = self.model.options.checkpoint.map_or(0, |c| c.interval_ms);
        let live = &mut self.s.live[id as usize];
        let data = self.chunks[live.chunk as usize].data.clone();
        let task = live.index as usize;
        live.state = TaskState::Running;
        live.scheduled_ms = Some(now);
        live.finished_ms = None;
        live.host = host as u32;
        live.scheduling_delay_ms += now - live.queued_ms;
        let mut injected = std::mem::take(&mut live.saved);
        let inputs = std::mem::take(&mut live.inputs);
        let cursor = live.saved_cursor;
        let chunk = live.chunk;
        let wait = self.input_wait_ms(&inputs, host);
        if wait > 0 {
            injected.insert(0, Fragment { duration_ms: wait, cpu_mhz: 0.0, gpu_mhz: 0.0, overhead: true });
        }
        let slot = self.attach_slot(Slot {
            live: id,
            host: host as u32,
            next: NONE,
            previous: NONE,
            chunk,
            cursor,
            stop: data.fragment_offset[task + 1],
            started: false,
            overhead: false,
            deadline_ms: NEVER,
            deadline_sequence: 0,
            since_ms: now,
            cpu_mhz: 0.0,
            cpu_supply_mhz: 0.0,
            gpu_mhz: 0.0,
            gpu_supply_mhz: 0.0,
            remaining_cpu: 0.0,
            remaining_gpu: 0.0,
            injected,
            snapshot_ms: if interval > 0 { now + interval } else { NEVER },
            snapshot_interval_ms: interval,
            saved_at_ms: now,
            energy_j: 0.0,
            alone_since_j: 0.0,
            demanded_mhz_ms: 0.0,
            supplied_mhz_ms: 0.0,
            gpu_supplied_mhz_ms: 0.0,
        });
        self.s.live[id as usize].slot = slot;
        self.s.starting.push(slot);
        self.occupy(id, host, 1);
        self.s.counts.active += 1;
        self.s.counts.pending -= 1;
        self.mark_dirty(host);
        self.invoke_engine();
    }

    /// Books (`sign` 1) or frees (-1) what a task asks for on a host.
    fn occupy(&mut self, id: u32, host: usize, sign: i32) {
        let live = &self.s.live[id as usize];
        let data = &self.chunks[live.chunk as usize].data;
        let task = live.index as usize;
        let views = &mut self.s.views;
        views.free_cores[host] -= sign * data.cpu_count[task] as i32;
        views.free_memory_mib[host] -= i64::from(sign) * data.memory_mib[task];
        views.tasks[host] += sign;
        views.free_gpu_cores[host] -= sign * data.gpu_count.get(task).map_or(0, |&n| n as i32);
        views.free_gpu_memory_mib[host] -= i64::from(sign) * data.gpu_memory_mib.get(task).copied().unwrap_or(0);
        self.reindex(host, sign > 0);
    }

    /// How long a task on a host still waits for what its parents sent, ms.
    fn input_wait_ms(&self, inputs: &[(u32, i64, f64)], host: usize) -> i64 {
        let to = self.cluster_of(host) as u32;
        let arrival = |&(from, sent, mib): &(u32, i64, f64)| sent + self.model.transfer_ms(from, to, mib);
        inputs.iter().map(arrival).max().map_or(0, |last| (last - self.s.now).max(0))
    }

    /// Takes a running task off its host.
    fn leave_host(&mut self, id: u32) {
        let slot = self.s.live[id as usize].slot;
        self.s.starting.retain(|&other| other != slot);
        let slot = self.detach_slot(slot);
        let host = slot.host as usize;
        self.occupy(id, host, -1);
        let now = self.s.now;
        let live = &mut self.s.live[id as usize];
        live.slot = NONE;
        live.energy_j += slot.energy_j;
        live.demanded_mhz_ms += slot.demanded_mhz_ms;
        live.supplied_mhz_ms += slot.supplied_mhz_ms;
        live.gpu_supplied_mhz_ms += slot.gpu_supplied_mhz_ms;
        live.up_ms += now - live.scheduled_ms.unwrap_or(now);
        self.s.counts.active -= 1;
        self.forget_task_of(host);
        if self.s.hosts[host].status == HostStatus::Draining && self.s.hosts[host].slot_count == 0 {
            self.switch_off(host);
        }
    }

    /// The last fragment of a slot has ended.
    pub(crate) fn complete<O: Observer>(&mut self, slot: u32, observer: &mut O) {
        let id = self.s.slots[slot as usize].live;
        let host = self.s.slots[slot as usize].host;
        self.leave_host(id);
        self.mark_dirty(host as usize);
        self.invoke_engine_if_idle();
        self.s.live[id as usize].finished_ms = Some(self.s.now);
        self.s.counts.completed += 1;
        self.request_scheduling();
        self.release_children(id, host);
        self.end_task(id, TaskState::Completed, observer);
    }

    /// Outside an engine invocation a stale host needs one.
    fn invoke_engine_if_idle(&mut self) {
        self.invoke_engine();
    }

    fn release_children(&mut self, id: u32, host: u32) {
        let live = &self.s.live[id as usize];
        let (chunk, index) = (live.chunk, live.index);
        let cluster = self.cluster_of(host as usize) as u32;
        if let Some(children) = self.chunks[chunk as usize].children.clone() {
            let data = self.chunks[chunk as usize].data.clone();
            let (first, stop) = (children.offset[index as usize], children.offset[index as usize + 1]);
            for &(child, edge) in &children.edges[first as usize..stop as usize] {
                let mib = data.edge_mib.get(edge as usize).copied().unwrap_or(0.0);
                self.release_child(chunk, child, cluster, mib);
            }
        }
        for (chunk, child) in self.s.pieces.take_waiting((chunk, index)) {
            self.release_child(chunk, child, cluster, 0.0);
        }
    }

    /// One parent of a task has completed.
    fn release_child(&mut self, chunk: u32, child: u32, cluster: u32, mib: f64) {
        let state = &mut self.s.chunks[chunk as usize];
        state.parents_left[child as usize] -= 1;
        let left = state.parents_left[child as usize];
        let child_id = state.live_of[child as usize];
        if mib > 0.0 || !self.model.links.is_empty() {
            let input = (cluster, self.s.now, mib);
            if child_id == NONE {
                state.early_inputs.entry(child).or_default().push(input);
            } else {
                self.s.live[child_id as usize].inputs.push(input);
            }
        }
        if left == 0 && child_id != NONE && self.s.live[child_id as usize].state == TaskState::Blocked {
            self.s.live[child_id as usize].ready_ms = self.s.now;
            self.enqueue(child_id, TaskState::Queued, false);
        }
    }

    /// All tasks that wait for a task, of its own workload first; those of others wait for it no longer.
    fn take_children(&mut self, chunk: u32, task: u32) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        if let Some(children) = &self.chunks[chunk as usize].children {
            let (first, stop) = (children.offset[task as usize], children.offset[task as usize + 1]);
            found.extend(children.edges[first as usize..stop as usize].iter().map(|&(child, _)| (chunk, child)));
        }
        found.extend(self.s.pieces.take_waiting((chunk, task)));
        found
    }

    /// Gives a queued task up; it has left the queue already. Its descendants go with it.
    pub(crate) fn terminate<O: Observer>(&mut self, id: u32, observer: &mut O) {
        self.s.counts.terminated += 1;
        let live = &self.s.live[id as usize];
        let mut ended = vec![id];
        let mut open = vec![(live.chunk, live.index)];
        while let Some((chunk, task)) = open.pop() {
            for (chunk, child) in self.take_children(chunk, task) {
                let state = &mut self.s.chunks[chunk as usize];
                if std::mem::replace(&mut state.doomed[child as usize], true) {
                    continue;
                }
                open.push((chunk, child));
                let child_id = state.live_of[child as usize];
                if child_id != NONE {
                    self.s.counts.doomed += 1;
                    ended.push(child_id);
                }
            }
        }
        for id in ended {
            self.end_task(id, TaskState::Terminated, observer);
        }
    }

    /// Gives up all live tasks: a run ends, whatever it was given.
    pub(crate) fn give_up<O: Observer>(&mut self, observer: &mut O) {
        let stopped: Vec<u32> = (0..self.s.hosts.len())
            .flat_map(|host| self.slots_of(host).collect::<Vec<_>>())
            .map(|slot| self.s.slots[slot].live)
            .collect();
        for id in stopped {
            self.pause_task(id);
        }
        while let Some(id) = self.s.queue.pop_front() {
            self.s.counts.pending -= 1;
            self.terminate(id, observer);
        }
    }

    /// Reports the end of a task and forgets it.
    fn end_task<O: Observer>(&mut self, id: u32, state: TaskState, observer: &mut O) {
        let ideal_ms = (state == TaskState::Completed).then(|| self.ideal_ms(id));
        let live = &mut self.s.live[id as usize];
        live.state = state;
        let result = TaskResult {
            chunk: live.chunk,
            index: live.index,
            state,
            submitted_ms: live.submitted_ms,
            ready_ms: live.ready_ms,
            scheduled_ms: live.scheduled_ms,
            finished_ms: live.finished_ms,
            host: live.host,
            failures: live.failures,
            pauses: live.pauses,
            scheduling_delay_ms: live.scheduling_delay_ms,
            failure_delay_ms: live.failure_delay_ms,
            checkpoint_delay_ms: live.checkpoint_delay_ms,
            energy_j: live.energy_j,
            demanded_mhz_ms: live.demanded_mhz_ms,
            supplied_mhz_ms: live.supplied_mhz_ms,
            gpu_supplied_mhz_ms: live.gpu_supplied_mhz_ms,
            up_ms: live.up_ms,
            ideal_ms,
            cpu_count: self.chunks[live.chunk as usize].data.cpu_count[live.index as usize],
        };
        let chunk = live.chunk as usize;
        self.close_feed(id);
        observer.task_ended(self, &result);
        let state = &mut self.s.chunks[chunk];
        state.live -= 1;
        if !state.live_of.is_empty() {
            state.live_of[result.index as usize] = NONE;
        }
        self.s.free_live.push(id);
        self.note_end(observer);
    }

    /// A running task is lost with its host: it goes back to its last snapshot and to the end of the queue.
    pub(crate) fn fail_task<O: Observer>(&mut self, id: u32, observer: &mut O) {
        let now = self.s.now;
        let slot = self.s.live[id as usize].slot as usize;
        let saved_at = self.s.slots[slot].saved_at_ms;
        let redo = self.lost_food(id, slot);
        self.drop_guess(id);
        self.leave_host(id);
        let live = &mut self.s.live[id as usize];
        live.saved.extend(redo);
        live.failures += 1;
        live.finished_ms = Some(now);
        live.failure_delay_ms += now - saved_at;
        let failures = live.failures;
        self.request_scheduling();
        if failures >= self.model.options.max_failures {
            self.terminate(id, observer);
        } else {
            self.enqueue(id, TaskState::Failed, false);
        }
    }

    /// What an open task must do again: it forgets what it was fed, so the time since its snapshot is done at its demand.
    fn lost_food(&self, id: u32, slot: usize) -> Option<Fragment> {
        self.feed_of(id)?;
        let slot = &self.s.slots[slot];
        let duration_ms = self.s.now - slot.saved_at_ms;
        let (cpu_mhz, gpu_mhz) = (slot.cpu_mhz, slot.gpu_mhz);
        (slot.started && duration_ms > 0).then_some(Fragment { duration_ms, cpu_mhz, gpu_mhz, overhead: false })
    }

    /// Takes a running task off its host and back into the queue, keeping its progress.
    pub(crate) fn pause_task(&mut self, id: u32) {
        let slot = self.s.live[id as usize].slot;
        let host = self.s.slots[slot as usize].host as usize;
        self.save_progress(slot);
        self.leave_host(id);
        self.mark_dirty(host);
        self.invoke_engine();
        self.s.live[id as usize].pauses += 1;
        self.enqueue(id, TaskState::Paused, false);
    }

    /// What is left of the present fragment, as a fragment at the old demand.
    fn remainder(&self, slot: &Slot) -> i64 {
        if self.is_held(slot.live) { 0 } else { self.left_ms(slot) }
    }

    /// Keeps what a slot has done, so that a restart goes on from here.
    pub(crate) fn save_progress(&mut self, index: u32) {
        let slot = &self.s.slots[index as usize];
        let duration_ms = self.remainder(slot);
        let mut saved = Vec::with_capacity(slot.injected.len() + 1);
        if duration_ms > 0 {
            let (cpu_mhz, gpu_mhz) = (slot.cpu_mhz, slot.gpu_mhz);
            saved.push(Fragment { duration_ms, cpu_mhz, gpu_mhz, overhead: slot.overhead });
        }
        saved.extend_from_slice(&slot.injected);
        let (id, cursor) = (slot.live as usize, slot.cursor);
        self.s.live[id].saved = saved;
        self.s.live[id].saved_cursor = cursor;
        self.s.slots[index as usize].saved_at_ms = self.s.now;
        self.drop_guess(id as u32);
    }

    /// A snapshot is due: progress is saved, and the task works `duration_ms` at its largest demand before it goes on.
    pub(crate) fn snapshot_task(&mut self, index: u32) {
        let Some(checkpoint) = self.model.options.checkpoint else { return };
        let now = self.s.now;
        let slot = &self.s.slots[index as usize];
        let interval = (slot.snapshot_interval_ms as f64 * checkpoint.interval_scaling) as i64;
        let idle = slot.cursor == slot.stop && slot.injected.is_empty() && self.remainder(slot) == 0;
        let last = idle && !self.has_food(slot.live);
        let (id, chunk, task) =
            (slot.live as usize, slot.chunk as usize, self.s.live[slot.live as usize].index as usize);
        let slot = &mut self.s.slots[index as usize];
        slot.snapshot_interval_ms = interval;
        slot.snapshot_ms = now + interval + checkpoint.duration_ms;
        if last {
            return;
        }
        self.save_progress(index);
        let data = &self.chunks[chunk].data;
        let range = data.fragment_offset[task] as usize..data.fragment_offset[task + 1] as usize;
        let largest = |usage: &crate::workload::Usage| range.clone().map(|i| usage.get(i)).fold(0.0, f64::max);
        let price = Fragment {
            duration_ms: checkpoint.duration_ms,
            cpu_mhz: largest(&data.fragment_cpu_mhz),
            gpu_mhz: data.fragment_gpu_mhz.as_ref().map_or(0.0, largest),
            overhead: true,
        };
        let saved = self.s.live[id].saved.clone();
        let slot = &mut self.s.slots[index as usize];
        slot.injected = saved;
        slot.injected.insert(0, price);
        slot.deadline_ms = now;
        self.s.live[id].checkpoint_delay_ms += checkpoint.duration_ms;
    }

    /// Demand of the last fragment of a running task that has ended, MHz: all that an operator knows of its load.
    pub fn known_demand_mhz(&self, id: u32) -> Option<f64> {
        let live = &self.s.live[id as usize];
        let slot = self.s.slots.get(live.slot as usize)?;
        if let Some(demand) = self.fed_demand_mhz(id) {
            return Some(demand).filter(|demand| demand.is_finite());
        }
        let data = &self.chunks[slot.chunk as usize].data;
        let first = data.fragment_offset[live.index as usize];
        // The cursor stands behind the fragment that runs now.
        let ended = slot.cursor.checked_sub(2).filter(|&fragment| slot.started && fragment >= first)?;
        Some(data.fragment_cpu_mhz.get(ended as usize))
    }

    /// Hosts that a name stands for: all for "", those of a cluster, or one.
    pub(crate) fn pinned_range(&self, name: &str) -> Result<(u32, u32), EngineError> {
        if name.is_empty() {
            return Ok((0, u32::MAX));
        }
        if let Some(cluster) = self.model.clusters.iter().position(|c| c.name == name) {
            let mut hosts = (0..self.s.hosts.len()).filter(|&h| self.cluster_of(h) == cluster);
            let first = hosts.next().unwrap_or(0) as u32;
            let last = hosts.next_back().map_or(first, |last| last as u32);
            return Ok((first, last + 1));
        }
        self.host_index(name).map(|host| (host as u32, host as u32 + 1))
    }

    /// Index of the host of a name.
    ///
    /// # Errors
    /// When no host has the name.
    pub fn host_index(&self, name: &str) -> Result<usize, EngineError> {
        (0..self.s.hosts.len()).find(|&host| self.host_name(host) == name).ok_or_else(|| EngineError::Unknown {
            kind: "host",
            name: name.to_owned(),
            known: (0..self.s.hosts.len().min(4)).map(|h| self.host_name(h)).collect::<Vec<_>>().join(", "),
        })
    }
}
