//! The next change of every host, in order of time.
//!
//! A timing wheel (Varghese and Lauck, SOSP 1987) of `SLOTS` lists, each `1 << SLOT_BITS` ms wide, holds what lies within
//! its horizon; a heap holds the rest and is emptied into the wheel as time passes. Setting and removing a host is O(1)
//! within the horizon. Hosts that are due together leave in no particular order; the caller puts them into its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const SLOT_BITS: u32 = 7;
const SLOTS: usize = 1024;
const NIL: u32 = u32::MAX;

/// No change is due.
pub const NEVER: i64 = i64::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    time: i64,
    next: u32,
    previous: u32,
    in_wheel: bool,
}

const IDLE: Entry = Entry { time: NEVER, next: NIL, previous: NIL, in_wheel: false };

/// Calendar of hosts; at most one time each.
#[derive(Clone, Debug)]
pub struct HostQueue {
    entries: Vec<Entry>,
    /// First and last host of each slot's list: hosts leave in the order in which they were set, where nothing moved them.
    head: Vec<u32>,
    tail: Vec<u32>,
    occupied: [u64; SLOTS / 64],
    far: BinaryHeap<Reverse<(i64, u32)>>,
    /// Number of the wheel's first slot: no entry lies before it.
    base: i64,
    /// The earliest time, or `None` when it must be searched for.
    earliest: Option<i64>,
}

impl Default for HostQueue {
    fn default() -> Self {
        HostQueue::new(0)
    }
}

impl HostQueue {
    /// A queue for `hosts` hosts, none with a change.
    pub fn new(hosts: usize) -> Self {
        HostQueue {
            entries: vec![IDLE; hosts],
            head: vec![NIL; SLOTS],
            tail: vec![NIL; SLOTS],
            occupied: [0; SLOTS / 64],
            far: BinaryHeap::new(),
            base: 0,
            earliest: Some(NEVER),
        }
    }

    /// Adds hosts at the end.
    pub fn grow(&mut self, hosts: usize) {
        self.entries.resize(hosts, IDLE);
    }

    /// When the host changes next.
    pub fn time_of(&self, host: usize) -> i64 {
        self.entries[host].time
    }

    /// Sets when a host changes next; `NEVER` removes it.
    #[inline]
    pub fn set(&mut self, host: usize, time: i64) {
        let old = self.entries[host].time;
        if old == time {
            return;
        }
        if self.entries[host].in_wheel {
            self.unlink(host);
        }
        if self.earliest == Some(old) {
            self.earliest = None;
        }
        self.entries[host].time = time;
        if time == NEVER {
            return;
        }
        if let Some(earliest) = self.earliest
            && time < earliest
        {
            self.earliest = Some(time);
        }
        if (time >> SLOT_BITS) < self.base + SLOTS as i64 {
            self.link(host, time);
        } else {
            self.far.push(Reverse((time, host as u32)));
        }
    }

    /// As `set`, for a host that `take_due` has just given.
    #[inline]
    pub fn set_again(&mut self, host: usize, time: i64) {
        debug_assert!(self.entries[host].time == NEVER && self.earliest.is_none());
        if (time >> SLOT_BITS) < self.base + SLOTS as i64 {
            self.link(host, time);
        } else {
            self.entries[host].time = time;
            self.far.push(Reverse((time, host as u32)));
        }
    }

    /// The earliest time at which a host changes.
    #[inline]
    pub fn earliest(&mut self) -> i64 {
        if let Some(time) = self.earliest {
            return time;
        }
        let time = self.search();
        self.earliest = Some(time);
        time
    }

    /// Removes all hosts due at `now` and appends them to `due`.
    #[inline]
    pub fn take_due(&mut self, now: i64, due: &mut Vec<u32>) {
        self.base = now >> SLOT_BITS;
        self.refill();
        let slot = (self.base as usize) & (SLOTS - 1);
        let mut host = self.head[slot];
        self.head[slot] = NIL;
        self.tail[slot] = NIL;
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        while host != NIL {
            let Entry { time, next, .. } = self.entries[host as usize];
            if time <= now {
                self.entries[host as usize] = IDLE;
                due.push(host);
            } else {
                self.link(host as usize, time);
            }
            host = next;
        }
        self.earliest = None;
    }

    /// Moves what the horizon has reached from the heap into the wheel; stale heap entries vanish here.
    fn refill(&mut self) {
        while let Some(&Reverse((time, host))) = self.far.peek() {
            let entry = &self.entries[host as usize];
            let stale = entry.time != time || entry.in_wheel;
            if !stale && (time >> SLOT_BITS) >= self.base + SLOTS as i64 {
                return;
            }
            self.far.pop();
            if !stale {
                self.link(host as usize, time);
            }
        }
    }

    #[inline]
    fn search(&mut self) -> i64 {
        let mut earliest = NEVER;
        if let Some(slot) = self.first_occupied() {
            let mut host = self.head[slot];
            while host != NIL {
                let entry = &self.entries[host as usize];
                earliest = earliest.min(entry.time);
                host = entry.next;
            }
        }
        while let Some(&Reverse((time, host))) = self.far.peek() {
            let entry = &self.entries[host as usize];
            if entry.time == time && !entry.in_wheel {
                return earliest.min(time);
            }
            self.far.pop();
        }
        earliest
    }

    /// The first slot with hosts, from the wheel's first slot on and around.
    #[inline]
    fn first_occupied(&self) -> Option<usize> {
        let start = (self.base as usize) & (SLOTS - 1);
        let (first, from) = (start / 64, !0 << (start % 64));
        let bits = self.occupied[first] & from;
        if bits != 0 {
            return Some(first * 64 + bits.trailing_zeros() as usize);
        }
        // The last step is the first word again, for what lies before its start.
        (1..=SLOTS / 64)
            .map(|step| (first + step) % (SLOTS / 64))
            .find(|&word| self.occupied[word] != 0)
            .map(|word| word * 64 + self.occupied[word].trailing_zeros() as usize)
    }

    #[inline]
    fn link(&mut self, host: usize, time: i64) {
        let slot = ((time >> SLOT_BITS) as usize) & (SLOTS - 1);
        let previous = self.tail[slot];
        if previous != NIL {
            self.entries[previous as usize].next = host as u32;
        } else {
            self.head[slot] = host as u32;
            self.occupied[slot / 64] |= 1 << (slot % 64);
        }
        self.tail[slot] = host as u32;
        self.entries[host] = Entry { time, next: NIL, previous, in_wheel: true };
    }

    #[inline]
    fn unlink(&mut self, host: usize) {
        let Entry { time, next, previous, .. } = self.entries[host];
        let slot = ((time >> SLOT_BITS) as usize) & (SLOTS - 1);
        if next != NIL {
            self.entries[next as usize].previous = previous;
        } else {
            self.tail[slot] = previous;
        }
        if previous != NIL {
            self.entries[previous as usize].next = next;
        } else {
            self.head[slot] = next;
        }
        if next == NIL && previous == NIL {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.entries[host].in_wheel = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draw, Purpose};

    /// A queue that searches everything every time.
    struct Plain(Vec<i64>);

    impl Plain {
        fn earliest(&self) -> i64 {
            self.0.iter().copied().min().unwrap_or(NEVER)
        }
        fn take_due(&mut self, now: i64) -> Vec<u32> {
            let due: Vec<u32> = (0..self.0.len() as u32).filter(|&h| self.0[h as usize] <= now).collect();
            due.iter().for_each(|&h| self.0[h as usize] = NEVER);
            due
        }
    }

    #[test]
    fn agrees_with_a_plain_search() {
        for seed in 0..40 {
            let hosts = 1 + (seed as usize * 7) % 50;
            let mut queue = HostQueue::new(hosts);
            let mut plain = Plain(vec![NEVER; hosts]);
            let mut draw = Draw::new(seed, Purpose::Victims, 0, 0);
            let mut now = 0;
            for _ in 0..2000 {
                let host = draw.below(hosts);
                let span = [200, 40_000, 500_000, 100_000_000][draw.below(4)];
                let time = if draw.below(10) == 0 { NEVER } else { now + draw.below(span) as i64 };
                queue.set(host, time);
                plain.0[host] = time;
                assert_eq!(queue.earliest(), plain.earliest());
                if draw.below(3) == 0 && plain.earliest() != NEVER {
                    now = plain.earliest();
                    let mut due = Vec::new();
                    queue.take_due(now, &mut due);
                    due.sort_unstable();
                    assert_eq!(due, plain.take_due(now));
                }
            }
        }
    }
}
