//! Lone tasks: the quick way from fragment to fragment of hosts with one task that gets what it asks for.
//!
//! This is nearly all that a long trace does, and most of its time is spent waiting for memory: a fragment's duration and
//! demand lie in columns whose every task is pages away from the next, and a host's state in a few cache lines. So the
//! next fragments of each such host are kept beside those of the others (`ReadAhead`), and hosts that are due together are
//! changed in one pass, in the order in which the calendar gives them.

use crate::meters::Meters;
use crate::queue::{NEVER, Streaming, Wheel};
use crate::shares::end_of_work;
use crate::sim::{Scratch, Simulation};
use crate::spec::ScalingPolicy;
use crate::state::{Host, Slot};
use crate::workload::{Usage, Workload};

/// Fragments in three cache lines.
const AHEAD: usize = 15;

/// Before nothing: no workload has so many fragments.
const NOWHERE: u32 = u32::MAX - AHEAD as u32;

/// The next fragments of a lone task, copied from its workload.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct ReadAhead {
    cpu_mhz: [f64; AHEAD],
    duration_ms: [u32; AHEAD],
    /// Where in the workload they are; `NOWHERE` when nothing was read.
    first: u32,
}

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { cpu_mhz: [0.0; AHEAD], duration_ms: [0; AHEAD], first: NOWHERE }
    }
}

impl ReadAhead {
    /// Duration and demand of a fragment; read from the workload, with those that follow, unless they are here.
    #[inline(always)]
    fn at<'a>(&mut self, cursor: u32, data: impl FnOnce() -> &'a Workload) -> (u32, f64) {
        if cursor.wrapping_sub(self.first) >= AHEAD as u32 {
            self.read(data(), cursor);
        }
        // The minimum tells the compiler what holds anyway.
        let position = (cursor.wrapping_sub(self.first) as usize).min(AHEAD - 1);
        (self.duration_ms[position], self.cpu_mhz[position])
    }

    /// Copies fragments from `cursor` on.
    #[inline(never)]
    fn read(&mut self, data: &Workload, cursor: u32) {
        self.first = cursor;
        let cursor = cursor as usize;
        let durations = &data.fragment_duration_ms[cursor..];
        for (to, &from) in self.duration_ms.iter_mut().zip(durations) {
            *to = from;
        }
        match &data.fragment_cpu_mhz {
            Usage::F32(values) => copy(&mut self.cpu_mhz, &values[cursor..]),
            Usage::F64(values) => copy(&mut self.cpu_mhz, &values[cursor..]),
        }
    }

    /// Whether the fragment is the last one here.
    #[inline(always)]
    fn ends_with(&self, cursor: u32) -> bool {
        cursor.wrapping_sub(self.first) == AHEAD as u32 - 1
    }

    /// Fetches the cache lines of the fragments that are to be read next, from `cursor` on.
    #[inline(never)]
    fn fetch_next(data: &Workload, cursor: u32) {
        for fragment in [cursor as usize, cursor as usize + AHEAD - 1] {
            let Some(duration) = data.fragment_duration_ms.get(fragment) else { return };
            fetch(duration);
            match &data.fragment_cpu_mhz {
                Usage::F32(values) => fetch(&values[fragment]),
                Usage::F64(values) => fetch(&values[fragment]),
            }
        }
    }
}

fn copy<T: Copy + Into<f64>>(to: &mut [f64; AHEAD], from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.into();
    }
}

impl Scratch {
    #[inline(always)]
    fn make_room_ahead(&mut self, hosts: &[Host]) {
        if self.ahead.len() < hosts.len() {
            self.grow_ahead(hosts);
        }
    }

    #[cold]
    fn grow_ahead(&mut self, hosts: &[Host]) {
        self.ahead.resize_with(hosts.len(), ReadAhead::default);
        self.lone_slot.extend(hosts[self.lone_slot.len()..].iter().map(|host| host.first_slot));
    }
}

impl Simulation {
    /// Whether all due hosts hold one task each that needs nothing but its next fragment, and are in the order in which
    /// their deadlines were set; these fragments are in `scratch.next` then.
    ///
    /// For lone tasks in a list of the calendar that holds others, too.
    #[inline(never)]
    pub(crate) fn look_ahead(&mut self, now: i64, due: &[u32]) -> bool {
        let Simulation { chunks, s, scratch, .. } = self;
        scratch.make_room_ahead(&s.hosts);
        scratch.next.clear();
        let mut last = 0;
        for &host in due {
            let state = &s.hosts[host as usize];
            if !state.streams {
                return false;
            }
            let slot = &s.slots[state.first_slot as usize];
            if slot.deadline_ms != now || slot.cursor >= slot.stop || slot.deadline_sequence < last {
                return false;
            }
            let data = || &*chunks[slot.chunk as usize].data;
            if scratch.ahead[host as usize].at(slot.cursor, data).0 == 0 {
                return false;
            }
            last = slot.deadline_sequence;
            scratch.next.push(host);
        }
        true
    }

    /// Begins the next fragments of all hosts of a streaming list that are due.
    #[inline]
    pub(crate) fn stream_on(&mut self, now: i64, mut streaming: Streaming, conserve: bool) {
        let next = |wheel: &mut Wheel<'_>| wheel.next_streaming(&mut streaming);
        if conserve { self.begin_next::<true>(now, next) } else { self.begin_next::<false>(now, next) }
    }

    /// Whether a lone task can go from fragment to fragment though work is conserved: in an instant in which nothing else
    /// happens, as deadlines are set in the order of the hosts' refreshes then.
    #[inline]
    pub(crate) fn conserves_lone_work(&self) -> bool {
        self.model.options.scaling_policy == ScalingPolicy::NoDelay
            && self.s.dirty.is_empty()
            && self.s.starting.is_empty()
    }

    /// Begins the next fragments of the hosts that `look_ahead` found.
    pub(crate) fn continue_lone_tasks(&mut self, now: i64, conserve: bool) {
        let hosts = std::mem::take(&mut self.scratch.next);
        let mut due = hosts.iter().copied();
        let next = |_: &mut Wheel<'_>| due.next();
        if conserve {
            self.begin_next::<true>(now, next)
        } else {
            self.begin_next::<false>(now, next)
        }
        self.scratch.next = hosts;
    }

    /// Begins the next fragments of the hosts that are given one after another, in the order of their deadlines' settings.
    ///
    /// Does what `next_fragment` and `refresh_host` do, for the case that is nearly all of a trace, and leaves rates alone
    /// where the demand stays what it was. Where work is conserved meters are written all the same, as what is left counts
    /// from the last writing.
    #[inline(always)]
    fn begin_next<const CONSERVE: bool>(&mut self, now: i64, mut next: impl FnMut(&mut Wheel<'_>) -> Option<u32>) {
        let Simulation { model, chunks, s, scratch } = self;
        let n = s.hosts.len();
        scratch.make_room_ahead(&s.hosts);
        let (hosts, ahead, lone_slot) = (&mut s.hosts[..n], &mut scratch.ahead[..n], &scratch.lone_slot[..n]);
        let mut meters = Meters {
            power_w: &mut s.power_w[..n],
            energy_j: &mut s.energy_j[..n],
            since_ms: &mut s.since_ms[..n],
            usage_mhz: &mut s.usage_mhz[..n],
            demand_mhz: &mut s.demand_mhz[..n],
        };
        let (mut wheel, slots) = (s.calendar.wheel(), &mut s.slots[..]);
        // Where work is conserved, deadlines that follow from it are set after all others of the instant.
        let mut sequence = s.deadline_sequence;
        let mut of_work = sequence + n as u64;
        while let Some(index) = next(&mut wheel) {
            let index = index as usize;
            let (host, ahead) = (&mut hosts[index], &mut ahead[index]);
            let slot = &mut slots[lone_slot[index] as usize];
            let data = |slot: &Slot| &*chunks[slot.chunk as usize].data;
            let (duration_ms, cpu_mhz) = ahead.at(slot.cursor, || data(slot));
            let number = if CONSERVE && cpu_mhz > 0.0 { &mut of_work } else { &mut sequence };
            *number += 1;
            slot.cursor += 1;
            slot.deadline_ms = now + i64::from(duration_ms);
            slot.deadline_sequence = *number;
            let differs = cpu_mhz != slot.cpu_mhz;
            if CONSERVE || differs {
                slot.settle_cpu(now);
                meters.settle(index, host, now);
            }
            if differs {
                slot.cpu_mhz = cpu_mhz;
                slot.cpu_supply_mhz = cpu_mhz.min(host.capacity_mhz);
                meters.set_lone_demand(index, host, &model.classes[host.class as usize], cpu_mhz);
            }
            let mut streams = true;
            if CONSERVE {
                slot.remaining_cpu = cpu_mhz * f64::from(duration_ms);
                slot.remaining_gpu = 0.0;
                if cpu_mhz > slot.cpu_supply_mhz {
                    slot.deadline_ms = end_of_work(slot, true);
                }
                streams = cpu_mhz > 0.0;
            }
            // At the end of its last fragment, and before one that takes no time, a task needs more than the next demand.
            streams &= slot.cursor < slot.stop && ahead.at(slot.cursor, || data(slot)).0 != 0;
            if ahead.ends_with(slot.cursor) {
                // Until the host is due again they stay near, and no longer.
                ReadAhead::fetch_next(data(slot), slot.cursor + 1);
            }
            wheel.set_again(index, slot.deadline_ms, streams);
        }
        s.deadline_sequence = if CONSERVE { of_work } else { sequence };
    }

    /// Says whether a host may go the quick way from now on; the calendar has been told that it did not until now.
    pub(crate) fn set_streams(&mut self, host: usize, streams: bool) {
        self.s.hosts[host].streams = streams;
        // It may be another task than the one whose fragments were read.
        if let Some(ahead) = self.scratch.ahead.get_mut(host) {
            ahead.first = NOWHERE;
            self.scratch.lone_slot[host] = self.s.hosts[host].first_slot;
        }
    }

    /// Whether a host's only task needs nothing at the end of a fragment but the next demand.
    pub(crate) fn is_plain(&self, host: usize, slot_index: u32) -> bool {
        let state = &self.s.hosts[host];
        let slot = &self.s.slots[slot_index as usize];
        slot.started
            && !slot.overhead
            && slot.injected.is_empty()
            && self.slowdown_of(slot_index) == 1.0
            && slot.snapshot_ms == NEVER
            && self.chunks[slot.chunk as usize].data.fragment_gpu_mhz.is_none()
            && self.model.classes[state.class as usize].sharing_is_by_demand()
            && state.power_limit_w == f64::INFINITY
            && state.rotates_ms == NEVER
    }
}

#[inline(always)]
fn fetch<T>(_value: &T) {
    #[cfg(target_arch = "x86_64")]
    safe_arch::prefetch_t0(_value);
}
