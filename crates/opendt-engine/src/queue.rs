//! The next change of every host, in order of time.
//!
//! A timing wheel (Varghese and Lauck, SOSP 1987) of `SLOTS` lists, each `1 << SLOT_BITS` ms wide, holds what lies within
//! its horizon; a heap holds the rest and is emptied into the wheel as time passes. Setting and removing a host is O(1)
//! within the horizon, and so is finding the earliest time. Hosts that are due together leave in no particular order; the
//! caller puts them into its own.
//!
//! A list also knows whether all its hosts were set by `set_again` as *streaming*, one after another: then they are in the
//! order of their settings, and the caller need not look at any of them before it changes the first (`take_streaming`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const SLOT_BITS: u32 = 7;
const SLOTS: usize = 1024;
const NIL: u32 = u32::MAX;
/// In place of a next host: the entry is in no list.
const OUTSIDE: u32 = u32::MAX - 1;
/// The earliest offset of a list must be searched for.
const UNKNOWN: u8 = u8::MAX;

/// No change is due.
pub const NEVER: i64 = i64::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    time: i64,
    next: u32,
    previous: u32,
}

impl Entry {
    #[inline(always)]
    fn in_wheel(&self) -> bool {
        self.next != OUTSIDE
    }
}

const IDLE: Entry = Entry { time: NEVER, next: OUTSIDE, previous: NIL };

/// The hosts of one slot of the wheel.
#[derive(Clone, Copy, Debug)]
struct List {
    /// First and last: hosts leave in the order in which they were set, where nothing moved them.
    head: u32,
    tail: u32,
    /// Earliest time less the slot's beginning, ms.
    least: u8,
    /// Not all are streaming and in the order of their settings.
    mixed: bool,
}

const EMPTY: List = List { head: NIL, tail: NIL, least: UNKNOWN, mixed: false };

/// Calendar of hosts; at most one time each.
#[derive(Clone, Debug)]
pub struct HostQueue {
    entries: Vec<Entry>,
    lists: Box<[List; SLOTS]>,
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

/// The parts of a queue that change when hosts are set again, so that a loop keeps them at hand.
#[derive(Debug)]
pub(crate) struct Wheel<'a> {
    entries: &'a mut [Entry],
    lists: &'a mut [List; SLOTS],
    occupied: &'a mut [u64; SLOTS / 64],
    far: &'a mut BinaryHeap<Reverse<(i64, u32)>>,
    base: i64,
}

/// Hosts taken off the wheel by `take_streaming`, not yet looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streaming {
    next: u32,
    now: i64,
}

#[inline(always)]
fn slot_of(time: i64) -> usize {
    ((time >> SLOT_BITS) as usize) & (SLOTS - 1)
}

#[inline(always)]
fn offset_of(time: i64) -> u8 {
    (time & ((1 << SLOT_BITS) - 1)) as u8
}

impl HostQueue {
    /// A queue for `hosts` hosts, none with a change.
    pub fn new(hosts: usize) -> Self {
        HostQueue {
            entries: vec![IDLE; hosts],
            lists: Box::new([EMPTY; SLOTS]),
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

    /// Sets when a host changes next; `NEVER` removes it. The host no longer counts as streaming, whatever its time was.
    #[inline]
    pub fn set(&mut self, host: usize, time: i64) {
        let Entry { time: old, .. } = self.entries[host];
        if old == time {
            self.stop_streaming(host);
            return;
        }
        if self.entries[host].in_wheel() {
            self.unlink(host);
        }
        if self.earliest == Some(old) {
            self.earliest = None;
        }
        if time == NEVER {
            self.entries[host] = IDLE;
            return;
        }
        if let Some(earliest) = self.earliest
            && time < earliest
        {
            self.earliest = Some(time);
        }
        self.wheel().insert(host, time, false);
    }

    /// The wheel, to set hosts whose earliest time is seen to elsewhere.
    #[inline(always)]
    pub(crate) fn wheel(&mut self) -> Wheel<'_> {
        let HostQueue { entries, lists, occupied, far, base, .. } = self;
        Wheel { entries, lists, occupied, far, base: *base }
    }

    /// The host's next change is no longer that of a streaming one.
    #[inline]
    pub(crate) fn stop_streaming(&mut self, host: usize) {
        let entry = self.entries[host];
        if entry.in_wheel() {
            self.lists[slot_of(entry.time)].mixed = true;
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
        self.earliest = None;
        let mut host = self.empty(slot_of(now)).head;
        while host != NIL {
            let Entry { time, next, .. } = self.entries[host as usize];
            if time <= now {
                self.entries[host as usize] = IDLE;
                due.push(host);
            } else {
                self.wheel().link(host as usize, time, false);
            }
            host = next;
        }
    }

    /// Begins to take the hosts due at `now`, where all that share their list are streaming; else does nothing.
    ///
    /// The caller calls `Wheel::next_streaming` until there are no more.
    #[inline]
    pub(crate) fn take_streaming(&mut self, now: i64) -> Option<Streaming> {
        self.base = now >> SLOT_BITS;
        if !self.far.is_empty() {
            self.refill();
        }
        if self.lists[slot_of(now)].mixed {
            return None;
        }
        let list = self.empty(slot_of(now));
        self.earliest = None;
        Some(Streaming { next: list.head, now })
    }

    /// Takes the list of a slot, leaving none.
    #[inline(always)]
    fn empty(&mut self, slot: usize) -> List {
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        std::mem::replace(&mut self.lists[slot], EMPTY)
    }

    /// Moves what the horizon has reached from the heap into the wheel; stale heap entries vanish here.
    fn refill(&mut self) {
        while let Some(&Reverse((time, host))) = self.far.peek() {
            let entry = &self.entries[host as usize];
            let stale = entry.time != time || entry.in_wheel();
            if !stale && (time >> SLOT_BITS) >= self.base + SLOTS as i64 {
                return;
            }
            self.far.pop();
            if !stale {
                self.wheel().link(host as usize, time, false);
            }
        }
    }

    #[inline]
    fn search(&mut self) -> i64 {
        let mut earliest = self.first_occupied().map_or(NEVER, |slot| self.earliest_in(slot));
        while let Some(&Reverse((time, host))) = self.far.peek() {
            let entry = &self.entries[host as usize];
            if entry.time == time && !entry.in_wheel() {
                earliest = earliest.min(time);
                break;
            }
            self.far.pop();
        }
        earliest
    }

    /// The earliest time in an occupied slot.
    #[inline]
    fn earliest_in(&mut self, slot: usize) -> i64 {
        let list = self.lists[slot];
        let first = self.entries[list.head as usize].time;
        if list.least != UNKNOWN {
            return (first >> SLOT_BITS << SLOT_BITS) + i64::from(list.least);
        }
        let mut earliest = first;
        let mut host = list.head;
        while host != NIL {
            let entry = &self.entries[host as usize];
            earliest = earliest.min(entry.time);
            host = entry.next;
        }
        self.lists[slot].least = offset_of(earliest);
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
    fn unlink(&mut self, host: usize) {
        let Entry { time, next, previous } = self.entries[host];
        let slot = slot_of(time);
        let list = &mut self.lists[slot];
        if list.least == offset_of(time) {
            list.least = UNKNOWN;
        }
        if next != NIL {
            self.entries[next as usize].previous = previous;
        } else {
            list.tail = previous;
        }
        if previous != NIL {
            self.entries[previous as usize].next = next;
        } else {
            list.head = next;
        }
        if next == NIL && previous == NIL {
            self.empty(slot);
        }
        self.entries[host].next = OUTSIDE;
    }
}

impl Wheel<'_> {
    /// As `HostQueue::set`, for a host that `take_due` or `next_streaming` has just given, and may be streaming.
    #[inline(always)]
    pub(crate) fn set_again(&mut self, host: usize, time: i64, streaming: bool) {
        // In the list that is being emptied it would come before others with an earlier setting.
        self.insert(host, time, streaming & (time >> SLOT_BITS > self.base));
    }

    /// The next host that is due; it must be given to `set_again` at once.
    #[inline(always)]
    pub(crate) fn next_streaming(&mut self, streaming: &mut Streaming) -> Option<u32> {
        while streaming.next != NIL {
            let host = streaming.next;
            let Entry { time, next, .. } = self.entries[host as usize];
            streaming.next = next;
            if time <= streaming.now {
                return Some(host);
            }
            self.link(host as usize, time, true);
        }
        None
    }

    #[inline(always)]
    fn insert(&mut self, host: usize, time: i64, streaming: bool) {
        if (time >> SLOT_BITS) < self.base + SLOTS as i64 {
            self.link(host, time, streaming);
        } else {
            self.entries[host] = Entry { time, ..IDLE };
            self.far.push(Reverse((time, host as u32)));
        }
    }

    #[inline(always)]
    fn link(&mut self, host: usize, time: i64, streaming: bool) {
        let slot = slot_of(time);
        let list = &mut self.lists[slot];
        let previous = list.tail;
        list.tail = host as u32;
        list.mixed |= !streaming;
        if previous != NIL {
            // An unknown earliest time stays so.
            list.least = if list.least == UNKNOWN { UNKNOWN } else { list.least.min(offset_of(time)) };
            self.entries[previous as usize].next = host as u32;
        } else {
            list.head = host as u32;
            list.least = offset_of(time);
            self.occupied[slot / 64] |= 1 << (slot % 64);
        }
        self.entries[host] = Entry { time, next: NIL, previous };
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

    #[test]
    fn streaming_hosts_leave_in_the_order_of_their_settings() {
        for seed in 0..40 {
            let hosts = 2 + (seed as usize * 7) % 50;
            let mut queue = HostQueue::new(hosts);
            let mut plain = Plain((0..hosts as i64).map(|host| host % 5).collect());
            let mut draw = Draw::new(seed, Purpose::Victims, 0, 0);
            let mut settings: Vec<u64> = (0..hosts as u64).collect();
            let mut setting = hosts as u64;
            let mut streamed = 0;
            (0..hosts).for_each(|host| queue.set(host, plain.0[host]));
            for _ in 0..2000 {
                let now = queue.earliest();
                assert_eq!(now, plain.earliest());
                let (mut due, mut orderly) = (Vec::new(), true);
                let mut set_again = |queue: &mut HostQueue, host: u32| {
                    let time = now + [40, 1000, 1000, 1000, 200_000][draw.below(5)];
                    plain.0[host as usize] = time;
                    setting += 1;
                    let before = std::mem::replace(&mut settings[host as usize], setting);
                    queue.wheel().set_again(host as usize, time, draw.below(50) > 0);
                    before
                };
                if let Some(mut streaming) = queue.take_streaming(now) {
                    let mut last = 0;
                    while let Some(host) = queue.wheel().next_streaming(&mut streaming) {
                        due.push(host);
                        let before = set_again(&mut queue, host);
                        orderly &= before > last;
                        last = before;
                    }
                    streamed += due.len();
                } else {
                    queue.take_due(now, &mut due);
                    for &host in &due {
                        set_again(&mut queue, host);
                    }
                }
                assert!(orderly, "a host left before another that was set earlier");
                let (host, time) = (draw.below(hosts), now + draw.below(3000) as i64);
                if draw.below(5) == 0 {
                    queue.set(host, time);
                    plain.0[host] = time;
                }
            }
            assert!(streamed > 0, "no list was streaming: the test shows nothing");
        }
    }
}
