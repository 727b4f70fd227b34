//! The order in which the reference meets equal deadlines.
//!
//! Where tasks end together, who leaves first decides what a memorizing scheduler or a queue of released children does next.
//! The reference keeps its timers in a binary heap that is not stable, so its order follows from the history of the heap.
//! This is the same heap, kept only where that order can reach a result.

use serde::{Deserialize, Serialize};

const ABSENT: u32 = u32::MAX;

/// Binary min-heap of deadlines with a known place for every owner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timers {
    heap: Vec<(i64, u32)>,
    place: Vec<u32>,
}

impl Timers {
    /// Sets or moves the deadline of an owner; `i64::MAX` removes it.
    pub fn set(&mut self, owner: u32, deadline: i64) {
        if self.place.len() <= owner as usize {
            self.place.resize(owner as usize + 1, ABSENT);
        }
        let place = self.place[owner as usize];
        match (deadline == i64::MAX, place == ABSENT) {
            (true, true) => {}
            (true, false) => self.remove(place as usize),
            (false, true) => {
                self.heap.push((deadline, owner));
                self.sift_up(self.heap.len() - 1, (deadline, owner));
            }
            (false, false) => {
                let place = place as usize;
                if place > 0 && self.heap[(place - 1) / 2].0 > deadline {
                    self.sift_up(place, (deadline, owner));
                } else {
                    self.sift_down(place, (deadline, owner));
                }
            }
        }
    }

    /// Removes the owner of the earliest deadline, if that has come.
    pub fn poll(&mut self, now: i64) -> Option<u32> {
        let &(deadline, owner) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        let last = self.heap.pop()?;
        if !self.heap.is_empty() {
            self.sift_down(0, last);
        }
        self.place[owner as usize] = ABSENT;
        Some(owner)
    }

    fn remove(&mut self, place: usize) {
        let owner = self.heap[place].1;
        if let Some(moved) = self.heap.pop()
            && place < self.heap.len()
        {
            self.sift_down(place, moved);
            if self.heap[place] == moved {
                self.sift_up(place, moved);
            }
        }
        self.place[owner as usize] = ABSENT;
    }

    fn put(&mut self, place: usize, entry: (i64, u32)) {
        self.heap[place] = entry;
        self.place[entry.1 as usize] = place as u32;
    }

    fn sift_up(&mut self, mut place: usize, entry: (i64, u32)) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if entry.0 >= self.heap[parent].0 {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&mut self, mut place: usize, entry: (i64, u32)) {
        let n = self.heap.len();
        while place < n / 2 {
            let mut child = 2 * place + 1;
            if child + 1 < n && self.heap[child].0 > self.heap[child + 1].0 {
                child += 1;
            }
            if entry.0 <= self.heap[child].0 {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draw, Purpose};

    #[test]
    fn polls_in_order_of_time() {
        let mut draw = Draw::new(3, Purpose::Victims, 0, 0);
        let mut timers = Timers::default();
        let mut plain = vec![i64::MAX; 30];
        for _ in 0..3000 {
            let owner = draw.below(30);
            let deadline = if draw.below(8) == 0 { i64::MAX } else { draw.below(40) as i64 };
            timers.set(owner as u32, deadline);
            plain[owner] = deadline;
            if draw.below(4) == 0 {
                let earliest = plain.iter().copied().min().unwrap_or(i64::MAX);
                let polled = timers.poll(100);
                assert_eq!(polled.map(|owner| plain[owner as usize]), (earliest != i64::MAX).then_some(earliest));
                if let Some(owner) = polled {
                    plain[owner as usize] = i64::MAX;
                }
            }
        }
    }
}
