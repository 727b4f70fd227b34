//! Tasks whose work becomes known while they run: whoever follows a live system learns of a fragment when it has ended.
//!
//! An open task is submitted without fragments and is *fed* afterwards. Where it runs out of what is known it *holds*: it goes
//! on with its last demand, or with half of what it asked for when it has shown nothing yet, until it is fed again or closed.
//! `held_since_ms` tells from when on the simulation rests on such a guess. Advanced no further than that, a simulation that
//! is fed piece by piece goes through the same states as one that knew everything.
//!
//! Whoever follows a live system learns of tasks window by window, so a task may wait for one of an earlier workload (`Wait`).
//!
//! Pieces lie in one array with linked lists, so that a fork stays a copy of flat memory.

use crate::error::EngineError;
use crate::queue::NEVER;
use crate::sim::Simulation;
use crate::state::{Fragment, TaskState};
use crate::workload::{NONE, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Utilisation of its cores assumed of a task that has shown nothing yet: the middle, for lack of anything better.
pub const UNKNOWN_UTILIZATION: f64 = 0.5;

/// How long a guess may last, ms: longer than any run, and exact in a float.
const HOLD_MS: i64 = 1 << 50;

/// A piece of known work that has not begun.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Piece {
    duration_ms: u32,
    next: u32,
    cpu_mhz: f64,
    gpu_mhz: f64,
}

/// What is known of an open task.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Feed {
    /// First and last piece that has not begun.
    head: u32,
    tail: u32,
    /// No more will come.
    closed: bool,
    /// The task runs on a guess.
    held: bool,
    /// Demand of the latest piece, MHz; NaN before the first.
    cpu_mhz: f64,
    gpu_mhz: f64,
}

impl Feed {
    const OPEN: Feed = Feed { head: NONE, tail: NONE, closed: false, held: false, cpu_mhz: f64::NAN, gpu_mhz: 0.0 };
}

/// Pieces of all open tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pieces {
    pieces: Vec<Piece>,
    /// First unused piece.
    free: u32,
    /// Since when a task runs on a guess, ms.
    held_since_ms: i64,
    /// Tasks (workload, index) of later workloads that wait for a task, by that task.
    waiting: BTreeMap<(u32, u32), Vec<(u32, u32)>>,
}

impl Default for Pieces {
    fn default() -> Self {
        Pieces { pieces: Vec::new(), free: NONE, held_since_ms: NEVER, waiting: BTreeMap::new() }
    }
}

impl Pieces {
    /// Tasks of later workloads that waited for a task, in the order in which they came; they wait for it no longer.
    pub(crate) fn take_waiting(&mut self, parent: (u32, u32)) -> Vec<(u32, u32)> {
        if self.waiting.is_empty() { Vec::new() } else { self.waiting.remove(&parent).unwrap_or_default() }
    }

    fn push(&mut self, feed: &mut Feed, piece: Piece) {
        let index = if self.free == NONE {
            self.pieces.push(piece);
            self.pieces.len() as u32 - 1
        } else {
            let index = self.free;
            self.free = self.pieces[index as usize].next;
            self.pieces[index as usize] = piece;
            index
        };
        if feed.tail == NONE {
            feed.head = index;
        } else {
            self.pieces[feed.tail as usize].next = index;
        }
        feed.tail = index;
        feed.cpu_mhz = piece.cpu_mhz;
        feed.gpu_mhz = piece.gpu_mhz;
    }

    fn pop(&mut self, feed: &mut Feed) -> Option<Piece> {
        let index = feed.head;
        let piece = *self.pieces.get(index as usize)?;
        feed.head = piece.next;
        if feed.head == NONE {
            feed.tail = NONE;
        }
        self.pieces[index as usize].next = self.free;
        self.free = index;
        Some(piece)
    }
}

/// A task that waits for one of a workload submitted before.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Index of the task in its workload.
    pub task: u32,
    /// Number of the other's workload, as `submit_open` gave it, and its index there.
    pub parent: (u32, u32),
}

/// New pieces of open tasks, as columns.
#[derive(Clone, Copy, Debug)]
pub struct Food<'a> {
    /// Number of the workload of each task, as `submit_open` gave it.
    pub chunk: &'a [u32],
    /// Index of each task in its workload.
    pub index: &'a [u32],
    /// Borders of each task's pieces; one more than tasks.
    pub offset: &'a [u32],
    /// Duration of each piece, ms.
    pub duration_ms: &'a [u32],
    /// CPU demand of each piece, MHz.
    pub cpu_mhz: &'a [f64],
    /// GPU demand of each piece, MHz; empty when none uses a GPU.
    pub gpu_mhz: &'a [f64],
    /// Whether nothing more comes after these pieces, for each task.
    pub closed: &'a [bool],
}

impl Food<'_> {
    fn check(&self, simulation: &Simulation) -> Result<(), EngineError> {
        let (tasks, pieces) = (self.chunk.len(), self.duration_ms.len());
        let lengths = [self.index.len(), self.closed.len(), self.offset.len().wrapping_sub(1)];
        let gpu_fits = self.gpu_mhz.is_empty() || self.gpu_mhz.len() == pieces;
        let borders = self.offset.first() == Some(&0)
            && self.offset.is_sorted()
            && self.offset.last().is_some_and(|&last| last as usize == pieces);
        if lengths.iter().any(|&length| length != tasks) || self.cpu_mhz.len() != pieces || !gpu_fits || !borders {
            let expected = "columns of one length, and borders that rise from 0 to the number of pieces";
            return Err(EngineError::invalid("feed", "columns that do not fit together", expected));
        }
        let bad = |value: &&f64| !value.is_finite() || **value < 0.0;
        if let Some(demand) = self.cpu_mhz.iter().chain(self.gpu_mhz).find(bad) {
            return Err(EngineError::invalid(
                "feed",
                format!("a demand of {demand}"),
                "finite demands of at least 0 MHz",
            ));
        }
        for (&chunk, &index) in self.chunk.iter().zip(self.index) {
            let open = simulation.s.chunks.get(chunk as usize).map_or(0, |chunk| chunk.feeds.len());
            if index as usize >= open {
                let found = format!("task {index} of workload {chunk}");
                return Err(EngineError::invalid("feed", found, "a task that was submitted open"));
            }
        }
        Ok(())
    }
}

impl Simulation {
    /// Takes tasks whose work will be told later; gives the number by which `feed` knows the workload.
    ///
    /// # Errors
    /// As `submit`.
    pub fn submit_open(&mut self, workload: Arc<Workload>) -> Result<u32, EngineError> {
        let tasks = workload.len();
        let chunk = self.take_workload(workload)?;
        self.s.chunks[chunk].feeds = vec![Feed::OPEN; tasks];
        Ok(chunk as u32)
    }

    /// As `submit_open`, with tasks that wait for tasks of workloads submitted before. A parent that has ended is not waited for.
    ///
    /// # Errors
    /// As `submit`, or when a wait names a task that was never submitted. Nothing is taken then.
    pub fn submit_open_after(&mut self, workload: Arc<Workload>, waits: &[Wait]) -> Result<u32, EngineError> {
        let tasks = workload.len();
        for &Wait { task, parent: (chunk, index) } in waits {
            let known = self.chunks.get(chunk as usize).map_or(0, |chunk| chunk.data.len());
            if task as usize >= tasks || index as usize >= known {
                let found = format!("task {task} that waits for task {index} of workload {chunk}");
                return Err(EngineError::invalid("submit_open", found, "tasks that were submitted"));
            }
        }
        // Before the workload is taken: it may take the number of one that has ended.
        let waits: Vec<&Wait> = waits.iter().filter(|wait| self.is_to_end(wait.parent)).collect();
        let chunk = self.submit_open(workload)?;
        if waits.is_empty() {
            return Ok(chunk);
        }
        let state = &mut self.s.chunks[chunk as usize];
        if state.parents_left.is_empty() {
            state.parents_left = vec![0; tasks];
            state.live_of = vec![NONE; tasks];
            state.doomed = vec![false; tasks];
        }
        for wait in waits {
            state.parents_left[wait.task as usize] += 1;
            self.s.pieces.waiting.entry(wait.parent).or_default().push((chunk, wait.task));
        }
        self.keep_order_of_ties();
        Ok(chunk)
    }

    /// Whether a task has not ended yet.
    fn is_to_end(&self, (chunk, index): (u32, u32)) -> bool {
        let is_live = |state| !matches!(state, TaskState::Completed | TaskState::Terminated);
        index >= self.s.chunks[chunk as usize].cursor
            || self.s.live.iter().any(|live| live.chunk == chunk && live.index == index && is_live(live.state))
    }

    /// Tells what open tasks did next. Tasks that have ended meanwhile take nothing.
    ///
    /// # Errors
    /// When the columns do not fit together, a demand is no demand, or a task was not submitted open. Nothing is taken then.
    pub fn feed(&mut self, food: &Food<'_>) -> Result<(), EngineError> {
        food.check(self)?;
        for (task, (&chunk, &index)) in food.chunk.iter().zip(food.index).enumerate() {
            let feed = &mut self.s.chunks[chunk as usize].feeds[index as usize];
            if feed.closed {
                continue;
            }
            for piece in food.offset[task] as usize..food.offset[task + 1] as usize {
                let (duration_ms, cpu_mhz) = (food.duration_ms[piece], food.cpu_mhz[piece]);
                let gpu_mhz = food.gpu_mhz.get(piece).copied().unwrap_or(0.0);
                self.s.pieces.push(feed, Piece { duration_ms, next: NONE, cpu_mhz, gpu_mhz });
            }
            feed.closed = food.closed[task];
            if feed.held && (feed.head != NONE || feed.closed) {
                self.end_hold(chunk, index);
            }
        }
        Ok(())
    }

    /// Since when the simulation rests on guesses of what open tasks do, ms; none when it does not.
    pub fn held_since_ms(&self) -> Option<i64> {
        Some(self.s.pieces.held_since_ms).filter(|&since| since != NEVER)
    }

    /// Takes the demands held so far for what happened: `held_since_ms` tells of later guesses only.
    pub fn forget_guesses(&mut self) {
        self.s.pieces.held_since_ms = NEVER;
    }

    /// Whether a task may still be fed.
    pub fn has_open_tasks(&self) -> bool {
        self.s.chunks.iter().any(|chunk| chunk.feeds.iter().any(|feed| !feed.closed))
    }

    /// The feed of a live task, where it has one.
    pub(crate) fn feed_of(&self, id: u32) -> Option<&Feed> {
        let live = &self.s.live[id as usize];
        self.s.chunks[live.chunk as usize].feeds.get(live.index as usize)
    }

    /// Demand of the latest piece that an open task was fed, MHz: NaN when there was none; no answer for other tasks.
    pub(crate) fn fed_demand_mhz(&self, id: u32) -> Option<f64> {
        self.feed_of(id).map(|feed| feed.cpu_mhz)
    }

    /// Whether a task runs on a guess.
    pub(crate) fn is_held(&self, id: u32) -> bool {
        self.feed_of(id).is_some_and(|feed| feed.held)
    }

    /// Whether an open task has, or may get, work beyond its present fragment.
    pub(crate) fn has_food(&self, id: u32) -> bool {
        self.feed_of(id).is_some_and(|feed| feed.head != NONE || !feed.closed)
    }

    /// The next fragment of an open task: what it was fed, or a guess. None for other tasks and at the end.
    pub(crate) fn next_fed(&mut self, id: u32, slot: u32) -> Option<Fragment> {
        let live = &self.s.live[id as usize];
        let (chunk, index) = (live.chunk as usize, live.index as usize);
        let feed = self.s.chunks[chunk].feeds.get_mut(index)?;
        if let Some(piece) = self.s.pieces.pop(feed) {
            self.s.live[id as usize].told_ms += i64::from(piece.duration_ms);
            let (cpu_mhz, gpu_mhz) = (piece.cpu_mhz, piece.gpu_mhz);
            return Some(Fragment { duration_ms: i64::from(piece.duration_ms), cpu_mhz, gpu_mhz, overhead: false });
        }
        if feed.closed {
            return None;
        }
        feed.held = true;
        self.s.live[id as usize].told_ms += HOLD_MS;
        self.s.pieces.held_since_ms = self.s.pieces.held_since_ms.min(self.s.now);
        let (mut cpu_mhz, gpu_mhz) = (feed.cpu_mhz, feed.gpu_mhz);
        if cpu_mhz.is_nan() {
            let host = self.s.slots[slot as usize].host as usize;
            let cores = f64::from(self.chunks[chunk].data.cpu_count[index]);
            cpu_mhz = UNKNOWN_UTILIZATION * cores * self.s.views.core_speed_mhz[host];
        }
        Some(Fragment { duration_ms: HOLD_MS, cpu_mhz, gpu_mhz, overhead: false })
    }

    /// Forgets what an open task was fed and takes no more: its work is told in another way, or it has ended.
    pub(crate) fn close_feed(&mut self, id: u32) {
        let live = &self.s.live[id as usize];
        let Some(feed) = self.s.chunks[live.chunk as usize].feeds.get_mut(live.index as usize) else { return };
        while self.s.pieces.pop(feed).is_some() {}
        feed.closed = true;
        feed.held = false;
    }

    /// A task runs on a guess no longer.
    pub(crate) fn end_guess(&mut self, id: u32) {
        let live = &self.s.live[id as usize];
        if let Some(feed) = self.s.chunks[live.chunk as usize].feeds.get_mut(live.index as usize) {
            feed.held = false;
        }
    }

    /// A guess ends now.
    fn end_hold(&mut self, chunk: u32, index: u32) {
        let holds = |slot: u32| {
            let slot = &self.s.slots[slot as usize];
            let live = &self.s.live[slot.live as usize];
            live.chunk == chunk && live.index == index
        };
        let running = (0..self.s.hosts.len()).flat_map(|host| self.slots_of(host)).find(|&slot| holds(slot as u32));
        let Some(slot) = running else { return };
        self.drop_guess(self.s.slots[slot].live);
        let now = self.s.now;
        let state = &mut self.s.slots[slot];
        state.deadline_ms = now;
        // Who is taken off the host in this instant saves none of it.
        (state.remaining_cpu, state.remaining_gpu) = (0.0, 0.0);
        let host = self.s.slots[slot].host as usize;
        self.s.calendar.set(host, now);
        self.invoke_engine();
    }
}
