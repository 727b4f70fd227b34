//! The progress of tasks from fragment to fragment, in the order in which their ends were set.

use crate::clusters::next_carbon_ms;
use crate::ideal::lengthened;
use crate::observe::Observer;
use crate::queue::NEVER;
use crate::sim::{Simulation, owned_slot, slot_owner};
use crate::spec::ScalingPolicy;
use crate::state::Fragment;
use crate::workload::NONE;

/// What a slot does next.
enum Next {
    /// A fragment has begun.
    Begun,
    /// Nothing is left.
    Finished,
}

impl Simulation {
    /// Deadlines have come: the quick way where all are of lone tasks that only go on, else the general one, slot by slot in
    /// the order in which the deadlines were set.
    #[inline]
    pub(crate) fn progress_due<O: Observer>(&mut self, now: i64, observer: &mut O) {
        let conserve = self.conserves_work();
        let quick = self.s.timers.is_none() && (!conserve || self.conserves_lone_work());
        if quick && let Some(streaming) = self.s.calendar.take_streaming(now) {
            self.stream_on(now, streaming, conserve);
            return;
        }
        let mut due = std::mem::take(&mut self.scratch.due);
        due.clear();
        self.s.calendar.take_due(now, &mut due);
        if quick && self.look_ahead(now, &due) {
            self.continue_lone_tasks(now, conserve);
        } else {
            self.progress_slots(now, &due, quick && !conserve, observer);
        }
        self.scratch.due = due;
    }

    #[inline(never)]
    fn progress_slots<O: Observer>(&mut self, now: i64, due: &[u32], quick: bool, observer: &mut O) {
        let mut slots = std::mem::take(&mut self.scratch.due_slots);
        self.rotate_due(now, due);
        for &host in due {
            self.collect_due_slots(host as usize, now, &mut slots);
        }
        slots.sort_unstable();
        self.reorder_ties(now, &mut slots);
        for &(_, slot) in &slots {
            let host = self.s.slots[slot as usize].host;
            if !(quick && self.look_ahead(now, &[host]) && self.s.hosts[host as usize].first_slot == slot) {
                self.progress_slot(slot, observer);
                self.mark_dirty(host as usize);
            } else {
                self.continue_lone_tasks(now, false);
            }
        }
        slots.clear();
        self.scratch.due_slots = slots;
    }

    /// Puts due slots into the order in which the reference's timers ring, where that is kept.
    fn reorder_ties(&mut self, now: i64, slots: &mut [(u64, u32)]) {
        let Some(timers) = &mut self.s.timers else { return };
        let mut position = 0;
        while let Some(owner) = timers.poll(now) {
            match owned_slot(owner) {
                Some(slot) => {
                    // Slots whose timer has rung come first, in that order; others are due for a snapshot only.
                    if let Some(at) = slots[position..].iter().position(|&(_, other)| other == slot) {
                        slots[position..=position + at].rotate_right(1);
                        position += 1;
                    }
                }
                None => {
                    let deadline = self.s.clusters.get(owner as usize).map_or(NEVER, |c| c.carbon_deadline_ms);
                    debug_assert!(deadline <= now);
                    // The carbon model sets its next timer as soon as this one has rung.
                    let next = next_carbon_ms(&self.model, owner as usize, now);
                    timers.set(owner, next);
                }
            }
        }
    }

    #[inline]
    fn collect_due_slots(&mut self, host: usize, now: i64, slots: &mut Vec<(u64, u32)>) {
        let state = &self.s.hosts[host];
        if state.slot_count == 1 {
            let slot = state.first_slot;
            slots.push((self.s.slots[slot as usize].deadline_sequence, slot));
            return;
        }
        let mut slot = state.first_slot;
        while slot != NONE {
            let state = &self.s.slots[slot as usize];
            if state.deadline_ms <= now || state.snapshot_ms <= now {
                slots.push((state.deadline_sequence, slot));
            }
            slot = state.next;
        }
    }

    /// Takes a snapshot of a slot and ends its fragment, where these are due.
    pub(crate) fn progress_slot<O: Observer>(&mut self, index: u32, observer: &mut O) {
        let now = self.s.now;
        let host = self.s.slots[index as usize].host as usize;
        // Energy up to now is split by what the tasks got up to now.
        self.flush_host(host);
        if self.s.slots[index as usize].snapshot_ms <= now {
            self.snapshot_task(index);
        }
        if self.s.slots[index as usize].deadline_ms <= now
            && let Next::Finished = self.next_fragment(index)
        {
            self.complete(index, observer);
        }
    }

    /// Begins the first fragments of the tasks placed in this instant, in order of placement.
    pub(crate) fn start_slots<O: Observer>(&mut self, observer: &mut O) {
        let starting = std::mem::take(&mut self.s.starting);
        for index in starting {
            if let Next::Finished = self.next_fragment(index) {
                self.complete(index, observer);
            }
        }
    }

    /// Factor on the durations of a task.
    pub(crate) fn slowdown_of(&self, slot: u32) -> f64 {
        let slot = &self.s.slots[slot as usize];
        let slowdown = &self.chunks[slot.chunk as usize].data.slowdown;
        slowdown.get(self.s.live[slot.live as usize].index as usize).copied().unwrap_or(1.0)
    }

    /// Begins the next fragment of a slot that takes time.
    fn next_fragment(&mut self, index: u32) -> Next {
        let now = self.s.now;
        let conserve = self.conserves_work();
        let keep_idle = self.model.options.scaling_policy == ScalingPolicy::NoDelay;
        // Where no device is, work for one cannot be done: it is dropped, as waiting for it would be for ever.
        let host = self.s.slots[index as usize].host as usize;
        let slowdown = self.slowdown_of(index);
        let has_gpu = self.model.classes[self.s.hosts[host].class as usize].gpu.is_some();
        loop {
            let slot = &mut self.s.slots[index as usize];
            let fragment = if !slot.injected.is_empty() {
                slot.injected.remove(0)
            } else if slot.cursor < slot.stop {
                let chunk = &*self.chunks[slot.chunk as usize].data;
                let cursor = slot.cursor as usize;
                slot.cursor += 1;
                Fragment {
                    duration_ms: lengthened(chunk.fragment_duration_ms[cursor], slowdown),
                    cpu_mhz: chunk.fragment_cpu_mhz.get(cursor),
                    gpu_mhz: chunk.fragment_gpu_mhz.as_ref().map_or(0.0, |gpu| gpu.get(cursor)),
                    overhead: false,
                }
            } else {
                let id = slot.live;
                match self.next_fed(id, index) {
                    Some(fragment) => fragment,
                    None => return Next::Finished,
                }
            };
            let slot = &mut self.s.slots[index as usize];
            let work = fragment.cpu_mhz + fragment.gpu_mhz;
            // Under the reference's Perfect policy a fragment without demand has no work and takes no time. A what-if on
            // a trace that ran in real time keeps its idle stretches: they are part of what was asked for.
            if fragment.duration_ms == 0 || (conserve && work == 0.0 && !keep_idle && !fragment.overhead) {
                continue;
            }
            let dt = (now - slot.since_ms) as f64;
            slot.demanded_mhz_ms += slot.cpu_mhz * dt;
            slot.supplied_mhz_ms += slot.cpu_supply_mhz * dt;
            slot.gpu_supplied_mhz_ms += slot.gpu_supply_mhz * dt;
            slot.started = true;
            slot.since_ms = now;
            slot.overhead = fragment.overhead;
            slot.cpu_mhz = fragment.cpu_mhz;
            slot.gpu_mhz = fragment.gpu_mhz;
            slot.deadline_ms = now + fragment.duration_ms;
            self.s.deadline_sequence += 1;
            slot.deadline_sequence = self.s.deadline_sequence;
            if conserve {
                slot.remaining_cpu = fragment.cpu_mhz * fragment.duration_ms as f64;
                slot.remaining_gpu = if has_gpu { fragment.gpu_mhz * fragment.duration_ms as f64 } else { 0.0 };
                // Set anew by the refresh, from the supply; a fragment without demand keeps its time.
                if work > 0.0 {
                    slot.deadline_ms = NEVER;
                    slot.cpu_supply_mhz = -1.0;
                }
            }
            let deadline = slot.deadline_ms;
            if let Some(timers) = &mut self.s.timers {
                timers.set(slot_owner(index), deadline);
            }
            return Next::Begun;
        }
    }
}
