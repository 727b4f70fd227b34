//! Meters of hosts and tasks: power and its energy, time in use and stolen, integrals of demand and supply.
//!
//! A meter is written when a rate changes, never to be read: what holds now is the last total and the rate since then.

use crate::model::HostClass;
use crate::shares::Shared;
use crate::sim::Simulation;
use crate::state::{Host, HostStatus, Slot};
use crate::workload::NONE;

/// The arrays of what every sample sums, one entry a host.
pub(crate) struct Meters<'a> {
    pub power_w: &'a mut [f64],
    pub energy_j: &'a mut [f64],
    pub since_ms: &'a mut [f64],
    pub usage_mhz: &'a mut [f64],
    pub demand_mhz: &'a mut [f64],
}

impl Meters<'_> {
    /// Adds what a host has used since its last change; gives the energy, J.
    #[inline(always)]
    pub fn settle(&mut self, index: usize, host: &mut Host, now: i64) -> f64 {
        let now = now as f64;
        let since = std::mem::replace(&mut self.since_ms[index], now);
        if since == now {
            return 0.0;
        }
        let dt = now - since;
        let energy = self.power_w[index] * dt * 1e-3;
        self.energy_j[index] += energy;
        host.active_ms += host.active_ratio * dt;
        if host.meters_all {
            host.steal_ms += host.steal_ratio * dt;
            host.gpu_active_ms += host.gpu_usage_mhz * dt;
            host.gpu_steal_ms += (host.gpu_demand_mhz - host.gpu_usage_mhz) * dt;
        }
        energy
    }

    /// Sets rates and power of a host whose only task demands `cpu_mhz` and gets it up to the capacity.
    #[inline(always)]
    pub fn set_lone_demand(&mut self, index: usize, host: &mut Host, class: &HostClass, cpu_mhz: f64) {
        let capacity = host.capacity_mhz;
        let over = cpu_mhz >= capacity;
        let u = if over { 1.0 } else { cpu_mhz / capacity };
        host.active_ratio = u;
        if over || host.meters_all {
            host.steal_ratio = if over { (cpu_mhz - capacity) / capacity } else { 0.0 };
            host.choose_meters();
        }
        self.demand_mhz[index] = cpu_mhz;
        self.usage_mhz[index] = cpu_mhz.min(capacity);
        self.power_w[index] = class.cpu_power_w(u, host.dynamic_factor) + host.gpu_power_w;
    }
}

impl Host {
    /// After a change of what is stolen or of what the GPU does.
    pub(crate) fn choose_meters(&mut self) {
        self.meters_all = self.steal_ratio != 0.0 || self.gpu_demand_mhz != 0.0;
    }
}

impl Slot {
    /// Adds to the integrals of CPU demand and supply what passed since the last change.
    #[inline(always)]
    pub(crate) fn settle_cpu(&mut self, now: i64) {
        let dt = (now - self.since_ms) as f64;
        self.demanded_mhz_ms += self.cpu_mhz * dt;
        self.supplied_mhz_ms += self.cpu_supply_mhz * dt;
        self.since_ms = now;
    }

    /// Adds what passed since the last change to all integrals and takes it off the work that is left.
    pub(crate) fn settle_work(&mut self, now: i64) {
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

    pub(crate) fn set_rates(&mut self, host: usize, cpu: Shared, gpu: Shared, gpu_power: f64) {
        let state = &mut self.s.hosts[host];
        state.active_ratio = cpu.usage / state.capacity_mhz;
        state.steal_ratio = (cpu.demand - cpu.usage) / state.capacity_mhz;
        self.s.demand_mhz[host] = cpu.demand;
        self.s.usage_mhz[host] = cpu.usage;
        state.gpu_demand_mhz = gpu.demand;
        state.gpu_usage_mhz = gpu.usage;
        state.gpu_power_w = gpu_power;
        state.choose_meters();
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
}
