//! What tasks on one host get: the sharing of CPU and GPU, limits of power, and when work ends.

use crate::model::{GpuClass, HostClass};
use crate::observe::Observer;
use crate::queue::NEVER;
use crate::sharing;
use crate::sim::{Simulation, slot_owner};
use crate::spec::{GpuOverhead, Sharing};
use crate::state::{HostStatus, Slot};

impl Simulation {
    /// Divides anew where the interval of a round-robin is over, in order of the hosts.
    pub(crate) fn rotate_due(&mut self, now: i64, due: &[u32]) {
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
        self.set_streams(host, matches!(*slots, [slot] if self.is_plain(host, slot)));
        due
    }

    /// What a host can give under its power limit, MHz.
    fn supply_limit_mhz(&mut self, host: usize) -> f64 {
        let state = &self.s.hosts[host];
        if state.power_limit_w == f64::INFINITY {
            return state.capacity_mhz;
        }
        let limit_w = state.power_limit_w - state.gpu_power_w;
        let class = &self.model.classes[state.class as usize];
        let bisection = &mut self.scratch.bisection;
        if (bisection.class, bisection.dynamic_factor) != (state.class, state.dynamic_factor) {
            *bisection = Bisection { class: state.class, dynamic_factor: state.dynamic_factor, ..Bisection::default() };
        }
        bisection.utilization_within(limit_w, |u| class.cpu_power_w(u, state.dynamic_factor)) * state.capacity_mhz
    }
}

const BISECTIONS: usize = 50;

/// The last search for a utilisation that a power limit allows. A cap leaves nearly the same power to all whom it limits: what
/// was computed on the way to one answer serves the next, up to where their ways part. Answers are those of a search anew.
#[derive(Debug)]
pub(crate) struct Bisection {
    class: u32,
    dynamic_factor: f64,
    limit_w: f64,
    full_w: f64,
    /// Of each step: the lower end it began with, and the power in the middle.
    low: [f64; BISECTIONS],
    middle_w: [f64; BISECTIONS],
    found: f64,
}

impl Default for Bisection {
    fn default() -> Self {
        Bisection {
            class: u32::MAX,
            dynamic_factor: 1.0,
            limit_w: f64::NAN,
            full_w: f64::NAN,
            low: [0.0; BISECTIONS],
            middle_w: [f64::NAN; BISECTIONS],
            found: 0.0,
        }
    }
}

impl Bisection {
    /// Largest utilisation whose power stays within a limit, on a curve that need not be monotone at its end.
    fn utilization_within(&mut self, limit_w: f64, power_w: impl Fn(f64) -> f64) -> f64 {
        if self.full_w.is_nan() {
            self.full_w = power_w(1.0);
        }
        if self.full_w <= limit_w {
            return 1.0;
        }
        let last_w = std::mem::replace(&mut self.limit_w, limit_w);
        let parting = |&w: &f64| w.is_nan() || (w <= last_w) != (w <= limit_w);
        let Some(first) = self.middle_w.iter().position(parting) else { return self.found };
        let mut low = self.low[first];
        let mut half = 0.5f64.powi(first as i32 + 1);
        for step in first..BISECTIONS {
            self.low[step] = low;
            let middle = low + half;
            // The first power is known where ways part, the ones after it are not.
            if step > first || self.middle_w[step].is_nan() {
                self.middle_w[step] = power_w(middle);
            }
            if self.middle_w[step] <= limit_w {
                low = middle;
            }
            half *= 0.5;
        }
        self.found = low;
        low
    }
}

/// When the work of a slot ends: whole milliseconds, rounded down as in the reference of 2025, by the slower resource.
#[inline]
pub(crate) fn end_of_work(slot: &Slot, exact: bool) -> i64 {
    let end = |remaining: f64, supply: f64| {
        if remaining <= 0.0 {
            0
        } else if supply <= 0.0 {
            NEVER
        } else {
            let ms = remaining / supply;
            if ms >= 9e15 {
                return NEVER;
            }
            let whole = ms as i64;
            // A what-if divides what it has just multiplied: the whole number it began with must come back.
            let near = whole + i64::from(ms - whole as f64 >= 0.5);
            if exact && (ms - near as f64).abs() < 1e-9 * ms.max(1.0) { near } else { whole }
        }
    };
    let cpu = if slot.cpu_mhz > 0.0 { end(slot.remaining_cpu, slot.cpu_supply_mhz) } else { 0 };
    let gpu = if slot.gpu_mhz > 0.0 { end(slot.remaining_gpu, slot.gpu_supply_mhz) } else { 0 };
    slot.since_ms.saturating_add(cpu.max(gpu))
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Shared {
    pub demand: f64,
    pub usage: f64,
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

impl HostClass {
    /// Whether a lone task gets what it demands up to the capacity.
    #[inline]
    pub(crate) fn sharing_is_by_demand(&self) -> bool {
        matches!(self.group.cpu_sharing, Sharing::MaxMinFairness | Sharing::FirstFit)
    }

    fn gpu_is_best_effort(&self) -> bool {
        self.gpu.as_ref().is_some_and(|gpu| matches!(gpu.sharing, Sharing::BestEffort { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anew(limit_w: f64, power_w: impl Fn(f64) -> f64) -> f64 {
        if power_w(1.0) <= limit_w {
            return 1.0;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            if power_w(middle) <= limit_w { low = middle } else { high = middle }
        }
        low
    }

    #[test]
    fn a_search_that_goes_on_from_the_last_one_finds_what_one_anew_finds() {
        let falling_at_its_end = |u: f64| 25.0 + 149.0 * (2.0 * u - u.powi(4)) + 30.0 * (9.0 * u).sin();
        let steady = |u: f64| 25.0 + 149.0 * u;
        for power_w in [&falling_at_its_end as &dyn Fn(f64) -> f64, &steady] {
            let mut bisection = Bisection::default();
            let mut random = 1u64;
            for round in 0..2_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let wide = (random >> 11) as f64 / (1u64 << 53) as f64;
                // Far apart, close together, twice the same, and beyond either end.
                let limit_w = [250.0 * wide, 90.0 + 1e-12 * wide, 90.0, -1.0][round % 4];
                assert_eq!(bisection.utilization_within(limit_w, power_w), anew(limit_w, power_w), "{limit_w} W");
            }
        }
    }
}
