//! Hosts: the progress of fragments, the sharing of CPU and GPU, power and energy.

use crate::clusters::next_carbon_ms;
use crate::model::GpuClass;
use crate::observe::Observer;
use crate::queue::NEVER;
use crate::sharing;
use crate::sim::{Simulation, owned_slot, slot_owner};
use crate::spec::{GpuOverhead, ScalingPolicy, Sharing};
use crate::state::{Fragment, Host, HostStatus, Slot};
use crate::workload::NONE;

/// What a slot does next.
enum Next {
    /// A fragment has begun.
    Begun,
    /// Nothing is left.
    Finished,
}

impl Simulation {
    /// Adds a host of a class, up and idle.
    pub(crate) fn push_host(&mut self, class: u32, ordinal: u32) -> usize {
        let now = self.s.now;
        let c = &self.model.classes[class as usize];
        let views = &mut self.s.views;
        views.up.push(true);
        views.core_count.push(c.group.core_count as i32);
        views.free_cores.push(c.group.core_count as i32);
        views.memory_mib.push(c.group.memory_mib);
        views.free_memory_mib.push(c.group.memory_mib);
        views.tasks.push(0);
        let gpu_cores = c.gpu.as_ref().map_or(0, |gpu| gpu.core_count as i32);
        views.gpu_cores.push(gpu_cores);
        views.free_gpu_cores.push(gpu_cores);
        views.free_gpu_memory_mib.push(c.gpu.as_ref().map_or(0, |gpu| gpu.memory_mib));
        views.core_speed_mhz.push(c.group.core_speed_mhz);
        views.capacity_mhz.push(c.capacity_mhz);
        views.gpu_core_speed_mhz.push(c.gpu.as_ref().map_or(0.0, |gpu| gpu.core_speed_mhz));
        self.s.power_w.push(c.rest_w());
        self.s.energy_j.push(0.0);
        self.s.since_ms.push(now);
        self.s.hosts.push(Host {
            class,
            ordinal,
            status: HostStatus::Up,
            capacity_mhz: c.capacity_mhz,
            speed_ratio: 1.0,
            dynamic_factor: c.dynamic_factor,
            demand_mhz: 0.0,
            usage_mhz: 0.0,
            gpu_demand_mhz: 0.0,
            gpu_usage_mhz: 0.0,
            gpu_power_w: c.rest_w() - c.idle_w,
            first_slot: NONE,
            last_slot: NONE,
            slot_count: 0,
            rotation: 0,
            rotates_ms: NEVER,
            boot_ms: now,
            status_since_ms: now,
            up_ms: 0,
            down_ms: 0,
            active_ms: 0.0,
            steal_ms: 0.0,
            gpu_active_ms: 0.0,
            gpu_steal_ms: 0.0,
            power_limit_w: f64::INFINITY,
            dirty: false,
        });
        let host = self.s.hosts.len() - 1;
        self.s.calendar.grow(host + 1);
        self.memorize_host(host);
        host
    }

    /// Deadlines have come: the quick way for lone tasks that only go on, else the general one, slot by slot in the order
    /// in which the deadlines were set.
    #[inline]
    pub(crate) fn progress_due<O: Observer>(&mut self, now: i64, observer: &mut O) {
        let mut due = std::mem::take(&mut self.scratch.due);
        let mut slots = std::mem::take(&mut self.scratch.due_slots);
        self.s.calendar.take_due(now, &mut due);
        self.rotate_due(now, &due);
        for &host in &due {
            self.collect_due_slots(host as usize, now, &mut slots);
        }
        slots.sort_unstable();
        self.reorder_ties(now, &mut slots);
        let quick = !self.conserves_work() && self.s.timers.is_none();
        for &(_, slot) in &slots {
            let host = self.s.slots[slot as usize].host as usize;
            if !(quick && self.s.hosts[host].slot_count == 1 && self.continue_lone_task(host)) {
                self.progress_slot(slot, observer);
                self.mark_dirty(host);
            }
        }
        slots.clear();
        due.clear();
        self.scratch.due = due;
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
    fn progress_slot<O: Observer>(&mut self, index: u32, observer: &mut O) {
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

    /// Begins the next fragment of a host's only task, if that needs nothing but a new demand.
    #[inline]
    fn continue_lone_task(&mut self, host: usize) -> bool {
        let state = &self.s.hosts[host];
        let index = state.first_slot as usize;
        let slot = &mut self.s.slots[index];
        let chunk = &*self.chunks[slot.chunk as usize].data;
        let class = &self.model.classes[state.class as usize];
        let now = self.s.now;
        let simple = slot.started
            && slot.deadline_ms == now
            && slot.cursor < slot.stop
            && slot.injected.is_empty()
            && slot.slowdown == 1.0
            && slot.snapshot_ms == NEVER
            && !slot.overhead
            && chunk.fragment_gpu_mhz.is_none()
            && class.sharing_is_by_demand()
            && state.power_limit_w == f64::INFINITY;
        if !simple {
            return false;
        }
        let duration = chunk.fragment_duration_ms[slot.cursor as usize];
        if duration == 0 {
            return false;
        }
        let cpu_mhz = chunk.fragment_cpu_mhz.get(slot.cursor as usize);
        slot.cursor += 1;
        slot.deadline_ms = now + i64::from(duration);
        self.s.deadline_sequence += 1;
        slot.deadline_sequence = self.s.deadline_sequence;
        let deadline = slot.deadline_ms;
        if cpu_mhz != slot.cpu_mhz {
            let capacity = state.capacity_mhz;
            let dt = (now - slot.since_ms) as f64;
            slot.demanded_mhz_ms += slot.cpu_mhz * dt;
            slot.supplied_mhz_ms += slot.cpu_supply_mhz * dt;
            slot.since_ms = now;
            slot.cpu_mhz = cpu_mhz;
            slot.cpu_supply_mhz = cpu_mhz.min(capacity);
            let usage = slot.cpu_supply_mhz;
            self.flush_host(host);
            let state = &mut self.s.hosts[host];
            state.demand_mhz = cpu_mhz;
            state.usage_mhz = usage;
            let factor = state.dynamic_factor;
            let u = if cpu_mhz >= capacity { 1.0 } else { cpu_mhz / capacity };
            self.s.power_w[host] =
                class_power(&self.model.classes[state.class as usize], u, factor) + state.gpu_power_w;
        }
        self.s.calendar.set(host, deadline);
        true
    }

    /// Adds what the host has used since its last change.
    #[inline]
    pub(crate) fn flush_host(&mut self, host: usize) {
        let now = self.s.now;
        let since = self.s.since_ms[host];
        if since == now {
            return;
        }
        let dt = (now - since) as f64;
        let energy = self.s.power_w[host] * dt * 1e-3;
        self.s.energy_j[host] += energy;
        self.s.since_ms[host] = now;
        let state = &mut self.s.hosts[host];
        let capacity = state.capacity_mhz;
        state.active_ms += state.usage_mhz / capacity * dt;
        state.steal_ms += (state.demand_mhz - state.usage_mhz) / capacity * dt;
        state.gpu_active_ms += state.gpu_usage_mhz * dt;
        state.gpu_steal_ms += (state.gpu_demand_mhz - state.gpu_usage_mhz) * dt;
        if state.slot_count > 1 {
            self.attribute(host, energy);
        }
    }

    /// Splits energy among the tasks of a host: power at rest in equal parts, dynamic power by use.
    fn attribute(&mut self, host: usize, energy: f64) {
        let state = &self.s.hosts[host];
        let class = &self.model.classes[state.class as usize];
        let power = self.s.power_w[host];
        let gpu_rest = class.rest_w() - class.idle_w;
        let gpu_dynamic = (state.gpu_power_w - gpu_rest).clamp(0.0, power);
        let cpu_dynamic = (power - state.gpu_power_w - class.idle_w).clamp(0.0, power);
        let part = |watts: f64| if power > 0.0 { energy * watts / power } else { 0.0 };
        let by_cpu = if state.usage_mhz > 0.0 { part(cpu_dynamic) / state.usage_mhz } else { 0.0 };
        let by_gpu = if state.gpu_usage_mhz > 0.0 { part(gpu_dynamic) / state.gpu_usage_mhz } else { 0.0 };
        let given = by_cpu * state.usage_mhz + by_gpu * state.gpu_usage_mhz;
        let equal = (energy - given) / f64::from(state.slot_count);
        let total: f64 = self.slots_of(host).map(|slot| self.s.slots[slot].cpu_supply_mhz).sum();
        let gpu_total: f64 = self.slots_of(host).map(|slot| self.s.slots[slot].gpu_supply_mhz).sum();
        // Under fixed shares tasks get more than the host gives: scale, so that the parts still sum to the meter.
        let cpu_scale = if total > 0.0 { by_cpu * state.usage_mhz / total } else { 0.0 };
        let gpu_scale = if gpu_total > 0.0 { by_gpu * state.gpu_usage_mhz / gpu_total } else { 0.0 };
        let missing = given - cpu_scale * total - gpu_scale * gpu_total;
        let equal = equal + missing / f64::from(state.slot_count);
        let mut slot = state.first_slot;
        while slot != NONE {
            let s = &mut self.s.slots[slot as usize];
            s.energy_j += equal + cpu_scale * s.cpu_supply_mhz + gpu_scale * s.gpu_supply_mhz;
            slot = s.next;
        }
    }

    /// Slots of a host in order of arrival.
    pub(crate) fn slots_of(&self, host: usize) -> impl Iterator<Item = usize> + '_ {
        let first = self.s.hosts[host].first_slot;
        std::iter::successors((first != NONE).then_some(first), |&slot| {
            let next = self.s.slots[slot as usize].next;
            (next != NONE).then_some(next)
        })
        .map(|slot| slot as usize)
    }

    /// Puts a slot on a host.
    pub(crate) fn attach_slot(&mut self, mut slot: Slot) -> u32 {
        let host = slot.host as usize;
        self.flush_host(host);
        let meter = self.s.energy_j[host];
        let state = &mut self.s.hosts[host];
        slot.previous = state.last_slot;
        slot.next = NONE;
        slot.alone_since_j = meter;
        let index = match self.s.free_slots.pop() {
            Some(index) => {
                self.s.slots[index as usize] = slot;
                index
            }
            None => {
                self.s.slots.push(slot);
                self.s.slots.len() as u32 - 1
            }
        };
        if state.last_slot == NONE {
            state.first_slot = index;
        } else {
            let last = state.last_slot as usize;
            self.s.slots[last].next = index;
            if state.slot_count == 1 {
                let alone = &mut self.s.slots[last];
                alone.energy_j += meter - alone.alone_since_j;
            }
        }
        state.last_slot = index;
        state.slot_count += 1;
        index
    }

    /// Takes a slot off its host; its energy and integrals are settled.
    pub(crate) fn detach_slot(&mut self, index: u32) -> Slot {
        let now = self.s.now;
        let host = self.s.slots[index as usize].host as usize;
        self.flush_host(host);
        let meter = self.s.energy_j[host];
        let slot = &mut self.s.slots[index as usize];
        let dt = (now - slot.since_ms) as f64;
        slot.demanded_mhz_ms += slot.cpu_mhz * dt;
        slot.supplied_mhz_ms += slot.cpu_supply_mhz * dt;
        slot.gpu_supplied_mhz_ms += slot.gpu_supply_mhz * dt;
        slot.since_ms = now;
        let state = &mut self.s.hosts[host];
        if state.slot_count == 1 {
            slot.energy_j += meter - slot.alone_since_j;
        }
        let (next, previous) = (slot.next, slot.previous);
        let slot = slot.clone();
        state.slot_count -= 1;
        if previous == NONE {
            state.first_slot = next;
        } else {
            self.s.slots[previous as usize].next = next;
        }
        if next == NONE {
            state.last_slot = previous;
        } else {
            self.s.slots[next as usize].previous = previous;
        }
        if state.slot_count == 1 {
            let alone = state.first_slot as usize;
            self.s.slots[alone].alone_since_j = meter;
        }
        self.s.free_slots.push(index);
        if let Some(timers) = &mut self.s.timers {
            timers.set(slot_owner(index), NEVER);
        }
        slot
    }

    /// Divides anew where the interval of a round-robin is over, in order of the hosts.
    fn rotate_due(&mut self, now: i64, due: &[u32]) {
        let over = |host: &u32| self.s.hosts[*host as usize].rotates_ms <= now;
        let mut rotating: Vec<u32> = due.iter().copied().filter(over).collect();
        rotating.sort_unstable();
        for host in rotating {
            self.arm_rotation(host as usize);
            self.mark_dirty(host as usize);
        }
    }

    /// Sets the end of the interval of a round-robin.
    fn arm_rotation(&mut self, host: usize) {
        let now = self.s.now;
        let class = self.s.hosts[host].class as usize;
        let interval = match self.model.classes[class].group.cpu_sharing {
            Sharing::BestEffort { update_interval_ms } => update_interval_ms.max(1),
            _ => match self.model.classes[class].gpu.as_ref().map(|gpu| gpu.sharing) {
                Some(Sharing::BestEffort { update_interval_ms }) => update_interval_ms.max(1),
                _ => return,
            },
        };
        self.s.hosts[host].rotates_ms = now + interval;
    }

    /// Begins the next fragment of a slot that takes time.
    fn next_fragment(&mut self, index: u32) -> Next {
        let now = self.s.now;
        let conserve = self.conserves_work();
        let keep_idle = self.model.options.scaling_policy == ScalingPolicy::NoDelay;
        // Where no device is, work for one cannot be done: it is dropped, as waiting for it would be for ever.
        let host = self.s.slots[index as usize].host as usize;
        let has_gpu = self.model.classes[self.s.hosts[host].class as usize].gpu.is_some();
        loop {
            let slot = &mut self.s.slots[index as usize];
            let fragment = if !slot.injected.is_empty() {
                slot.injected.remove(0)
            } else if slot.cursor < slot.stop {
                let chunk = &*self.chunks[slot.chunk as usize].data;
                let cursor = slot.cursor as usize;
                slot.cursor += 1;
                let duration = i64::from(chunk.fragment_duration_ms[cursor]);
                Fragment {
                    duration_ms: if slot.slowdown == 1.0 {
                        duration
                    } else {
                        (duration as f64 * slot.slowdown).round() as i64
                    },
                    cpu_mhz: chunk.fragment_cpu_mhz.get(cursor),
                    gpu_mhz: chunk.fragment_gpu_mhz.as_ref().map_or(0.0, |gpu| gpu.get(cursor)),
                    overhead: false,
                }
            } else {
                return Next::Finished;
            };
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

    /// Recomputes shares, power and the next change of a host; tasks whose work is done on the way go on.
    pub(crate) fn refresh_host<O: Observer>(&mut self, host: usize, observer: &mut O) {
        loop {
            self.flush_host(host);
            let mut slots = std::mem::take(&mut self.scratch.slots);
            slots.clear();
            slots.extend(self.slots_of(host).map(|slot| slot as u32));
            let again = self.share_host(host, &slots);
            if again {
                // A work-conserving fragment had less than a millisecond left: it ends now.
                slots.retain(|&slot| self.s.slots[slot as usize].deadline_ms <= self.s.now);
                for &slot in &slots {
                    self.progress_slot(slot, observer);
                }
            }
            self.scratch.slots = slots;
            if !again {
                return;
            }
        }
    }

    /// Shares, power and deadlines; true when a deadline has come already.
    fn share_host(&mut self, host: usize, slots: &[u32]) -> bool {
        let (mut demand, mut share) =
            (std::mem::take(&mut self.scratch.demand), std::mem::take(&mut self.scratch.share));
        let class_index = self.s.hosts[host].class as usize;
        let sharing = self.model.classes[class_index].group.cpu_sharing;
        if matches!(sharing, Sharing::BestEffort { .. }) || self.model.classes[class_index].gpu_is_best_effort() {
            let state = &mut self.s.hosts[host];
            if state.slot_count == 0 {
                state.rotates_ms = NEVER;
            } else if state.rotates_ms == NEVER {
                self.arm_rotation(host);
            }
        }
        let rotation = self.s.hosts[host].rotation;
        let (mut cpu, mut gpu) = (Shared::default(), Shared::default());
        let capacity = self.s.hosts[host].capacity_mhz;
        if !slots.is_empty() {
            demand.clear();
            demand.extend(slots.iter().map(|&slot| self.s.slots[slot as usize].cpu_mhz));
            let total: f64 = demand.iter().sum();
            cpu.demand = sharing::demanded(sharing, capacity, total);
            let limit = self.supply_limit_mhz(host);
            cpu.usage = cpu.demand.min(limit);
            share.resize(slots.len(), 0.0);
            sharing::divide(sharing, limit, limit, rotation, &demand, &mut share[..slots.len()]);
            self.give_cpu(slots, &share);
        } else if let Sharing::EqualShare | Sharing::FixedShare { .. } = sharing {
            // The reference's distributor keeps demanding once it had a task.
            let state = &self.s.hosts[host];
            if state.demand_mhz > 0.0 && state.status == HostStatus::Up {
                cpu.demand = state.demand_mhz;
                cpu.usage = state.usage_mhz;
            }
        }
        let mut gpu_power = 0.0;
        if let Some(class) = &self.model.classes[class_index].gpu {
            let class = class.clone();
            demand.clear();
            demand.extend(slots.iter().map(|&slot| self.s.slots[slot as usize].gpu_mhz));
            gpu = gpu_shares(&class, rotation, &demand, &mut share);
            gpu_power = gpu_power_w(&class, gpu.demand);
            if !slots.is_empty() {
                self.give_gpu(slots, &share);
            }
        }
        // The round-robin begins one slot further on at each division of too little.
        if cpu.demand > cpu.usage || gpu.demand > gpu.usage {
            self.s.hosts[host].rotation = (rotation + 1) % slots.len().max(1) as u32;
        }
        self.scratch.demand = demand;
        self.scratch.share = share;
        self.set_rates(host, cpu, gpu, gpu_power);
        self.set_deadlines(host, slots)
    }

    fn give_cpu(&mut self, slots: &[u32], share: &[f64]) {
        let now = self.s.now;
        for (&index, &supply) in slots.iter().zip(share) {
            let slot = &mut self.s.slots[index as usize];
            if slot.cpu_supply_mhz == supply {
                continue;
            }
            let dt = (now - slot.since_ms) as f64;
            if dt > 0.0 {
                slot.demanded_mhz_ms += slot.cpu_mhz * dt;
                slot.supplied_mhz_ms += slot.cpu_supply_mhz * dt;
                slot.gpu_supplied_mhz_ms += slot.gpu_supply_mhz * dt;
                slot.remaining_cpu -= slot.cpu_supply_mhz * dt;
                slot.remaining_gpu -= slot.gpu_supply_mhz * dt;
                slot.since_ms = now;
            }
            slot.cpu_supply_mhz = supply;
        }
    }

    fn give_gpu(&mut self, slots: &[u32], share: &[f64]) {
        let now = self.s.now;
        for (&index, &supply) in slots.iter().zip(share) {
            let slot = &mut self.s.slots[index as usize];
            if slot.gpu_supply_mhz == supply {
                continue;
            }
            let dt = (now - slot.since_ms) as f64;
            if dt > 0.0 {
                slot.demanded_mhz_ms += slot.cpu_mhz * dt;
                slot.supplied_mhz_ms += slot.cpu_supply_mhz * dt;
                slot.gpu_supplied_mhz_ms += slot.gpu_supply_mhz * dt;
                slot.remaining_cpu -= slot.cpu_supply_mhz * dt;
                slot.remaining_gpu -= slot.gpu_supply_mhz * dt;
                slot.since_ms = now;
            }
            slot.gpu_supply_mhz = supply;
        }
    }

    fn set_rates(&mut self, host: usize, cpu: Shared, gpu: Shared, gpu_power: f64) {
        let state = &mut self.s.hosts[host];
        state.demand_mhz = cpu.demand;
        state.usage_mhz = cpu.usage;
        state.gpu_demand_mhz = gpu.demand;
        state.gpu_usage_mhz = gpu.usage;
        state.gpu_power_w = gpu_power;
        let class = &self.model.classes[state.class as usize];
        let power = match state.status {
            HostStatus::Removed => 0.0,
            HostStatus::Failed if !self.model.options.failed_hosts_draw_idle => 0.0,
            _ => {
                let u = (cpu.demand / state.capacity_mhz).min(1.0);
                class_power(class, u, state.dynamic_factor) + gpu_power
            }
        };
        self.s.power_w[host] = power.min(state.power_limit_w);
    }

    /// Sets when the slots and the host change next; true when one is due now.
    fn set_deadlines(&mut self, host: usize, slots: &[u32]) -> bool {
        let now = self.s.now;
        let conserve = self.conserves_work();
        let exact = self.s.conserve_work;
        let mut next = self.s.hosts[host].rotates_ms;
        let mut due = false;
        for &index in slots {
            let slot = &mut self.s.slots[index as usize];
            if conserve && (slot.cpu_mhz > 0.0 || slot.gpu_mhz > 0.0) {
                let end = end_of_work(slot, exact);
                if end != slot.deadline_ms {
                    slot.deadline_ms = end;
                    self.s.deadline_sequence += 1;
                    slot.deadline_sequence = self.s.deadline_sequence;
                    if let Some(timers) = &mut self.s.timers {
                        timers.set(slot_owner(index), end);
                    }
                }
            }
            due |= slot.deadline_ms <= now;
            next = next.min(slot.deadline_ms).min(slot.snapshot_ms);
        }
        self.s.calendar.set(host, if due { NEVER } else { next });
        due
    }

    /// What a host can give under its power limit, MHz.
    fn supply_limit_mhz(&self, host: usize) -> f64 {
        let state = &self.s.hosts[host];
        if state.power_limit_w == f64::INFINITY {
            return state.capacity_mhz;
        }
        let class = &self.model.classes[state.class as usize];
        let limit = state.power_limit_w - state.gpu_power_w;
        let at = |u: f64| class_power(class, u, state.dynamic_factor);
        if at(1.0) <= limit {
            return state.capacity_mhz;
        }
        // Largest utilisation whose power stays within the limit, on a curve that need not be monotone at its end.
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..50 {
            let middle = 0.5 * (low + high);
            if at(middle) <= limit { low = middle } else { high = middle }
        }
        low * state.capacity_mhz
    }
}

/// When the work of a slot ends: whole milliseconds, rounded down as in the reference of 2025, by the slower resource.
fn end_of_work(slot: &Slot, exact: bool) -> i64 {
    let end = |remaining: f64, supply: f64| {
        if remaining <= 0.0 {
            0
        } else if supply <= 0.0 {
            NEVER
        } else {
            let ms = remaining / supply;
            // A what-if divides what it has just multiplied: the whole number it began with must come back.
            let ms = if exact && (ms - ms.round()).abs() < 1e-9 * ms.max(1.0) { ms.round() } else { ms };
            if ms >= 9e15 { NEVER } else { ms as i64 }
        }
    };
    let cpu = if slot.cpu_mhz > 0.0 { end(slot.remaining_cpu, slot.cpu_supply_mhz) } else { 0 };
    let gpu = if slot.gpu_mhz > 0.0 { end(slot.remaining_gpu, slot.gpu_supply_mhz) } else { 0 };
    slot.since_ms.saturating_add(cpu.max(gpu))
}

#[derive(Clone, Copy, Default)]
struct Shared {
    demand: f64,
    usage: f64,
}

fn class_power(class: &crate::model::HostClass, u: f64, factor: f64) -> f64 {
    class.cpu_power_w(u, factor)
}

/// Divides the pooled GPUs of a host.
fn gpu_shares(class: &GpuClass, rotation: u32, demand: &[f64], share: &mut Vec<f64>) -> Shared {
    if demand.is_empty() {
        return Shared::default();
    }
    let capacity = class.device_mhz * f64::from(class.count);
    let total: f64 = demand.iter().sum();
    let wanted = sharing::demanded(class.sharing, capacity, total);
    let supply = overhead(class.overhead, wanted.min(capacity), demand.len());
    share.clear();
    share.resize(demand.len(), 0.0);
    sharing::divide(class.sharing, overhead(class.overhead, capacity, demand.len()), supply, rotation, demand, share);
    Shared { demand: wanted, usage: supply }
}

fn overhead(model: GpuOverhead, supply: f64, consumers: usize) -> f64 {
    match model {
        GpuOverhead::None => supply,
        GpuOverhead::Constant { ratio } => supply * (1.0 - ratio),
        GpuOverhead::ShareBased => supply / consumers.max(1) as f64,
    }
}

/// Power of all devices of a host whose pooled demand is `demand` MHz.
fn gpu_power_w(class: &GpuClass, demand: f64) -> f64 {
    let count = f64::from(class.count);
    match class.sharing {
        // First-fit and best-effort fill device after device.
        Sharing::FirstFit | Sharing::BestEffort { .. } => {
            let mut left = demand;
            let mut power = 0.0;
            for _ in 0..class.count {
                power += class.power.at((left / class.device_mhz).clamp(0.0, 1.0));
                left = (left - class.device_mhz).max(0.0);
            }
            power
        }
        _ => count * class.power.at((demand / count / class.device_mhz).min(1.0)),
    }
}

impl crate::model::HostClass {
    /// Whether a lone task gets what it demands up to the capacity.
    #[inline]
    fn sharing_is_by_demand(&self) -> bool {
        matches!(self.group.cpu_sharing, Sharing::MaxMinFairness | Sharing::FirstFit)
    }

    fn gpu_is_best_effort(&self) -> bool {
        self.gpu.as_ref().is_some_and(|gpu| matches!(gpu.sharing, Sharing::BestEffort { .. }))
    }
}
