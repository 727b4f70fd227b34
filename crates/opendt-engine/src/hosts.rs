//! Hosts and the list of tasks on each.

use crate::queue::NEVER;
use crate::sim::{Simulation, slot_owner};
use crate::state::{Host, HostStatus, Slot, Span};
use crate::workload::NONE;

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
            meters_all: false,
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
        self.s.calendar.stop_streaming(host);
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
        self.s.calendar.stop_streaming(host);
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
}
