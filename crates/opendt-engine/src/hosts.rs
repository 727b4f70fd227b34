//! Hosts: the progress of fragments, the sharing of CPU and GPU, power and energy.

use crate::clusters::next_carbon_ms;
use crate::model::{GpuClass, HostClass};
use crate::observe::Observer;
use crate::queue::NEVER;
use crate::sharing;
use crate::sim::{Simulation, owned_slot, slot_owner};
use crate::spec::{GpuOverhead, ScalingPolicy, Sharing};
use crate::state::{Fragment, Host, HostStatus, Slot, Span};
use crate::workload::{NONE, Usage, Workload};

/// What a slot does next.
enum Next {
    /// A fragment has begun.
    Begun,
    /// Nothing is left.
    Finished,
}

/// The next fragment of a task that is alone on its host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextFragment {
    host: u32,
    slot: u32,
    duration_ms: u32,
    cpu_mhz: f64,
}

/// The arrays of what every sample sums, one entry a host.
struct Meters<'a> {
    power_w: &'a mut [f64],
    energy_j: &'a mut [f64],
    since_ms: &'a mut [f64],
    usage_mhz: &'a mut [f64],
    demand_mhz: &'a mut [f64],
}

impl Meters<'_> {
    /// Adds what a host has used since its last change; gives the energy, J.
    #[inline(always)]
    fn settle(&mut self, index: usize, host: &mut Host, now: i64) -> f64 {
        let now = now as f64;
        let since = std::mem::replace(&mut self.since_ms[index], now);
        if since == now {
            return 0.0;
        }
        let dt = now - since;
        let energy = self.power_w[index] * dt * 1e-3;
        self.energy_j[index] += energy;
        host.active_ms += host.active_ratio * dt;
        host.steal_ms += host.steal_ratio * dt;
        if host.gpu_demand_mhz != 0.0 {
            host.gpu_active_ms += host.gpu_usage_mhz * dt;
            host.gpu_steal_ms += (host.gpu_demand_mhz - host.gpu_usage_mhz) * dt;
        }
        energy
    }

    /// Sets rates and power of a host whose only task demands `cpu_mhz` and gets it up to the capacity.
    #[inline(always)]
    fn set_lone_demand(&mut self, index: usize, host: &mut Host, class: &HostClass, cpu_mhz: f64) {
        let capacity = host.capacity_mhz;
        let over = cpu_mhz >= capacity;
        let u = if over { 1.0 } else { cpu_mhz / capacity };
        host.active_ratio = u;
        host.steal_ratio = if over { (cpu_mhz - capacity) / capacity } else { 0.0 };
        self.demand_mhz[index] = cpu_mhz;
        self.usage_mhz[index] = cpu_mhz.min(capacity);
        self.power_w[index] = class.cpu_power_w(u, host.dynamic_factor) + host.gpu_power_w;
    }
}

impl Slot {
    /// Adds to the integrals of CPU demand and supply what passed since the last change.
    #[inline(always)]
    fn settle_cpu(&mut self, now: i64) {
        let dt = (now - self.since_ms) as f64;
        self.demanded_mhz_ms += self.cpu_mhz * dt;
        self.supplied_mhz_ms += self.cpu_supply_mhz * dt;
        self.since_ms = now;
    }

    /// Adds what passed since the last change to all integrals and takes it off the work that is left.
    fn settle_work(&mut self, now: i64) {
        let dt = (now - self.since_ms) as f64;
        if dt > 0.0 {
            self.gpu_supplied_mhz_ms += self.gpu_supply_mhz * dt;
            self.remaining_cpu -= self.cpu_supply_mhz * dt;
            self.remaining_gpu -= self.gpu_supply_mhz * dt;
            self.settle_cpu(now);
        }
    }
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
        self.s.since_ms.push(now as f64);
        self.s.usage_mhz.push(0.0);
        self.s.demand_mhz.push(0.0);
        self.s.in_service_mhz.push(c.capacity_mhz);
        self.s.hosts_up += 1;
        let index = self.s.hosts.len() as u32;
        match self.s.spans.last_mut() {
            Some(span) if span.cluster == c.cluster => span.end = index + 1,
            _ => self.s.spans.push(Span { cluster: c.cluster, start: index, end: index + 1 }),
        }
        self.s.hosts.push(Host {
            class,
            first_slot: NONE,
            slot_count: 0,
            streams: false,
            dirty: false,
            status: HostStatus::Up,
            capacity_mhz: c.capacity_mhz,
            dynamic_factor: c.dynamic_factor,
            gpu_power_w: c.rest_w() - c.idle_w,
            active_ratio: 0.0,
            steal_ratio: 0.0,
            active_ms: 0.0,
            steal_ms: 0.0,
            gpu_demand_mhz: 0.0,
            gpu_usage_mhz: 0.0,
            gpu_active_ms: 0.0,
            gpu_steal_ms: 0.0,
            speed_ratio: 1.0,
            ordinal,
            last_slot: NONE,
            rotation: 0,
            rotates_ms: NEVER,
            boot_ms: now,
            status_since_ms: now,
            up_ms: 0,
            down_ms: 0,
            power_limit_w: f64::INFINITY,
        });
        let host = self.s.hosts.len() - 1;
        self.s.calendar.grow(host + 1);
        self.forget_index();
        self.memorize_host(host);
        host
    }

    /// Deadlines have come: the quick way where all are of lone tasks that only go on, else the general one, slot by slot in
    /// the order in which the deadlines were set.
    #[inline]
    pub(crate) fn progress_due<O: Observer>(&mut self, now: i64, observer: &mut O) {
        let mut due = std::mem::take(&mut self.scratch.due);
        due.clear();
        self.s.calendar.take_due(now, &mut due);
        if self.look_ahead(now, &due) {
            self.continue_lone_tasks(now);
        } else {
            self.progress_slots(now, &due, observer);
        }
        self.scratch.due = due;
    }

    #[inline(never)]
    fn progress_slots<O: Observer>(&mut self, now: i64, due: &[u32], observer: &mut O) {
        let mut slots = std::mem::take(&mut self.scratch.due_slots);
        self.rotate_due(now, due);
        for &host in due {
            self.collect_due_slots(host as usize, now, &mut slots);
        }
        slots.sort_unstable();
        self.reorder_ties(now, &mut slots);
        for &(_, slot) in &slots {
            let host = self.s.slots[slot as usize].host;
            if !(self.look_ahead(now, &[host]) && self.s.hosts[host as usize].first_slot == slot) {
                self.progress_slot(slot, observer);
                self.mark_dirty(host as usize);
            } else {
                self.continue_lone_tasks(now);
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

    /// Whether all due hosts hold one task each that needs nothing but its next fragment, and are in the order in which
    /// their deadlines were set; these fragments are in `scratch.next` then.
    ///
    /// Reading them all before anything depends on them lets their cache misses overlap, which is most of the time that a
    /// long trace takes.
    #[inline]
    fn look_ahead(&mut self, now: i64, due: &[u32]) -> bool {
        if self.conserves_work() || self.s.timers.is_some() {
            return false;
        }
        let Simulation { chunks, s, scratch, .. } = self;
        scratch.next.clear();
        let mut last = 0;
        for &host in due {
            let state = &s.hosts[host as usize];
            if !state.streams {
                return false;
            }
            let slot = &s.slots[state.first_slot as usize];
            let data = &*chunks[slot.chunk as usize].data;
            let cursor = slot.cursor as usize;
            let duration_ms = data.fragment_duration_ms.get(cursor).copied().unwrap_or(0);
            if slot.deadline_ms != now || slot.cursor >= slot.stop || slot.deadline_sequence < last || duration_ms == 0
            {
                return false;
            }
            last = slot.deadline_sequence;
            let cpu_mhz = data.fragment_cpu_mhz.get(cursor);
            prefetch(data, cursor);
            scratch.next.push(NextFragment { host, slot: state.first_slot, duration_ms, cpu_mhz });
        }
        true
    }

    /// Begins the fragments that `look_ahead` found.
    ///
    /// Does what `next_fragment` and `refresh_host` do, for the case that is nearly all of a trace, and leaves rates alone
    /// where the demand stays what it was.
    #[inline]
    fn continue_lone_tasks(&mut self, now: i64) {
        let Simulation { model, s, scratch, .. } = self;
        let n = s.hosts.len();
        let hosts = &mut s.hosts[..n];
        let mut meters = Meters {
            power_w: &mut s.power_w[..n],
            energy_j: &mut s.energy_j[..n],
            since_ms: &mut s.since_ms[..n],
            usage_mhz: &mut s.usage_mhz[..n],
            demand_mhz: &mut s.demand_mhz[..n],
        };
        for next in &scratch.next {
            let index = next.host as usize;
            let (host, slot) = (&mut hosts[index], &mut s.slots[next.slot as usize]);
            s.deadline_sequence += 1;
            slot.cursor += 1;
            slot.deadline_ms = now + i64::from(next.duration_ms);
            slot.deadline_sequence = s.deadline_sequence;
            if next.cpu_mhz != slot.cpu_mhz {
                slot.settle_cpu(now);
                slot.cpu_mhz = next.cpu_mhz;
                slot.cpu_supply_mhz = next.cpu_mhz.min(host.capacity_mhz);
                meters.settle(index, host, now);
                meters.set_lone_demand(index, host, &model.classes[host.class as usize], next.cpu_mhz);
            }
            s.calendar.set_again(index, slot.deadline_ms);
        }
    }

    /// Adds what the host has used since its last change.
    #[inline]
    pub(crate) fn flush_host(&mut self, host: usize) {
        let s = &mut self.s;
        let mut meters = Meters {
            power_w: &mut s.power_w,
            energy_j: &mut s.energy_j,
            since_ms: &mut s.since_ms,
            usage_mhz: &mut s.usage_mhz,
            demand_mhz: &mut s.demand_mhz,
        };
        let state = &mut s.hosts[host];
        let energy = meters.settle(host, state, s.now);
        if state.slot_count > 1 && energy != 0.0 {
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
        let usage_mhz = self.s.usage_mhz[host];
        let by_cpu = if usage_mhz > 0.0 { part(cpu_dynamic) / usage_mhz } else { 0.0 };
        let by_gpu = if state.gpu_usage_mhz > 0.0 { part(gpu_dynamic) / state.gpu_usage_mhz } else { 0.0 };
        let given = by_cpu * usage_mhz + by_gpu * state.gpu_usage_mhz;
        let equal = (energy - given) / f64::from(state.slot_count);
        let total: f64 = self.slots_of(host).map(|slot| self.s.slots[slot].cpu_supply_mhz).sum();
        let gpu_total: f64 = self.slots_of(host).map(|slot| self.s.slots[slot].gpu_supply_mhz).sum();
        // Under fixed shares tasks get more than the host gives: scale, so that the parts still sum to the meter.
        let cpu_scale = if total > 0.0 { by_cpu * usage_mhz / total } else { 0.0 };
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
        state.streams = false;
        self.s.hosts_busy += u32::from(state.slot_count == 1);
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
        state.streams = false;
        self.s.hosts_busy -= u32::from(state.slot_count == 0);
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
            if self.s.demand_mhz[host] > 0.0 && state.status == HostStatus::Up {
                cpu.demand = self.s.demand_mhz[host];
                cpu.usage = self.s.usage_mhz[host];
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
            slot.settle_work(now);
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
            slot.settle_work(now);
            slot.gpu_supply_mhz = supply;
        }
    }

    fn set_rates(&mut self, host: usize, cpu: Shared, gpu: Shared, gpu_power: f64) {
        let state = &mut self.s.hosts[host];
        state.active_ratio = cpu.usage / state.capacity_mhz;
        state.steal_ratio = (cpu.demand - cpu.usage) / state.capacity_mhz;
        self.s.demand_mhz[host] = cpu.demand;
        self.s.usage_mhz[host] = cpu.usage;
        state.gpu_demand_mhz = gpu.demand;
        state.gpu_usage_mhz = gpu.usage;
        state.gpu_power_w = gpu_power;
        let class = &self.model.classes[state.class as usize];
        let power = match state.status {
            HostStatus::Removed => 0.0,
            HostStatus::Failed if !self.model.options.failed_hosts_draw_idle => 0.0,
            _ => {
                let u = (cpu.demand / state.capacity_mhz).min(1.0);
                class.cpu_power_w(u, state.dynamic_factor) + gpu_power
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
        self.s.hosts[host].streams = matches!(*slots, [slot] if self.is_plain(host, slot));
        due
    }

    /// Whether a host's only task needs nothing at the end of a fragment but the next demand.
    fn is_plain(&self, host: usize, slot: u32) -> bool {
        let state = &self.s.hosts[host];
        let slot = &self.s.slots[slot as usize];
        slot.started
            && !slot.overhead
            && slot.injected.is_empty()
            && slot.slowdown == 1.0
            && slot.snapshot_ms == NEVER
            && self.chunks[slot.chunk as usize].data.fragment_gpu_mhz.is_none()
            && self.model.classes[state.class as usize].sharing_is_by_demand()
            && state.power_limit_w == f64::INFINITY
            && state.rotates_ms == NEVER
    }

    /// What a host can give under its power limit, MHz.
    fn supply_limit_mhz(&self, host: usize) -> f64 {
        let state = &self.s.hosts[host];
        if state.power_limit_w == f64::INFINITY {
            return state.capacity_mhz;
        }
        let class = &self.model.classes[state.class as usize];
        let limit = state.power_limit_w - state.gpu_power_w;
        let at = |u: f64| class.cpu_power_w(u, state.dynamic_factor);
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

/// Fetches the next cache line of a task's fragments, once a line: hundreds of tasks are read in turn, more than the
/// processor follows by itself, and it will be another sample's time before this one is.
#[inline(always)]
fn prefetch(data: &Workload, cursor: usize) {
    const VALUES_A_LINE: usize = 16;
    if cursor.is_multiple_of(VALUES_A_LINE)
        && let Some(duration) = data.fragment_duration_ms.get(cursor + VALUES_A_LINE)
    {
        fetch(duration);
        match &data.fragment_cpu_mhz {
            Usage::F32(values) => fetch(&values[cursor + VALUES_A_LINE]),
            Usage::F64(values) => fetch(&values[cursor + VALUES_A_LINE]),
        }
    }
}

#[inline(always)]
fn fetch<T>(_value: &T) {
    #[cfg(target_arch = "x86_64")]
    safe_arch::prefetch_t0(_value);
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
