//! Ideal run times: how long tasks would run if they always got what they ask for.
//!
//! The work of a task is the fragments of its workload up to where other work took their place, and what it was told since: pieces
//! that it was fed, work that replaced what it had left. A guess that was lived counts as told, as far as it was lived. Work that
//! is done again after a failure counts once, and snapshots and transfers do not count.

use crate::change::Work;
use crate::sim::{Chunk, Simulation};
use crate::spec::ScalingPolicy;
use crate::state::{Fragment, Slot};
use crate::workload::NONE;

/// Fragments of which only the sum of their durations is kept.
const BLOCK: usize = 64;

/// Duration of all fragments of a workload before each block of them, ms.
pub(crate) type Elapsed = Box<[i64]>;

fn sum(durations_ms: &[u32]) -> i64 {
    durations_ms.iter().map(|&duration| i64::from(duration)).sum()
}

fn own(fragments: &[Fragment]) -> i64 {
    fragments.iter().filter(|fragment| !fragment.overhead).map(|fragment| fragment.duration_ms).sum()
}

impl Chunk {
    /// Duration of fragments `first..stop` of the workload, ms, without reading all of them.
    fn duration_ms(&self, first: u32, stop: u32) -> i64 {
        let durations = &self.data.fragment_duration_ms;
        let blocks = self.elapsed.get_or_init(|| {
            let mut before = 0;
            let block = |block: &[u32]| {
                before += sum(block);
                before - sum(block)
            };
            durations.chunks(BLOCK).map(block).collect()
        });
        let before = |fragment: u32| {
            let fragment = fragment as usize;
            // The end of the last block is the beginning of none.
            let block = (fragment / BLOCK).min(blocks.len().saturating_sub(1));
            blocks.get(block).map_or(0, |elapsed| elapsed + sum(&durations[block * BLOCK..fragment]))
        };
        before(stop) - before(first)
    }
}

impl Simulation {
    /// How long a task that has completed would have run if it had always got what it asked for, ms.
    pub(crate) fn ideal_ms(&self, id: u32) -> i64 {
        let live = &self.s.live[id as usize];
        let keeps_time = self.model.options.scaling_policy == ScalingPolicy::NoDelay && !self.conserves_work();
        let nothing_added = live.failures == 0 && live.checkpoint_delay_ms == 0 && self.model.links.is_empty();
        if keeps_time && nothing_added {
            debug_assert_eq!(live.up_ms, self.told_ms(id));
            // Reading the durations of a whole trace again would take a while.
            return live.up_ms;
        }
        self.told_ms(id)
    }

    fn told_ms(&self, id: u32) -> i64 {
        let live = &self.s.live[id as usize];
        let chunk = &self.chunks[live.chunk as usize];
        let (first, stop) = (chunk.data.fragment_offset[live.index as usize], live.own_stop);
        let slowdown = chunk.data.slowdown.get(live.index as usize).copied().unwrap_or(1.0);
        let own_ms = if slowdown == 1.0 {
            chunk.duration_ms(first, stop)
        } else {
            let durations = &chunk.data.fragment_duration_ms[first as usize..stop as usize];
            durations.iter().map(|&duration| lengthened(duration, slowdown)).sum()
        };
        own_ms + live.told_ms
    }

    /// Nominal duration of what is left of the present fragment of a slot, ms: at the demand it has.
    pub(crate) fn left_ms(&self, slot: &Slot) -> i64 {
        let now = self.s.now;
        if !slot.started {
            return 0;
        }
        let idle = slot.cpu_mhz == 0.0 && slot.gpu_mhz == 0.0;
        if !self.conserves_work() || idle {
            return (slot.deadline_ms - now).max(0);
        }
        let dt = (now - slot.since_ms) as f64;
        let left = |work: f64, supply: f64, demand: f64| {
            if demand > 0.0 { ((work - supply * dt) / demand).max(0.0) as i64 } else { 0 }
        };
        left(slot.remaining_cpu, slot.cpu_supply_mhz, slot.cpu_mhz).max(left(
            slot.remaining_gpu,
            slot.gpu_supply_mhz,
            slot.gpu_mhz,
        ))
    }

    /// All work that a task has left is about to be replaced.
    pub(crate) fn tell_replaced(&mut self, id: u32, work: &[Work]) {
        self.drop_guess(id);
        let live = &self.s.live[id as usize];
        let (left_ms, cursor) = if live.slot == NONE {
            (own(&live.saved), live.saved_cursor)
        } else {
            let slot = &self.s.slots[live.slot as usize];
            let present_ms = if slot.overhead { 0 } else { self.left_ms(slot) };
            (own(&slot.injected) + present_ms, slot.cursor)
        };
        let live = &mut self.s.live[id as usize];
        live.own_stop = live.own_stop.min(cursor);
        live.told_ms += work.iter().map(|piece| piece.duration_ms).sum::<i64>() - left_ms;
    }

    /// A task runs on its guess no longer, if it did: what was not lived of it was never told.
    pub(crate) fn drop_guess(&mut self, id: u32) {
        if !self.is_held(id) {
            return;
        }
        let slot = self.s.live[id as usize].slot;
        if slot != NONE {
            let left_ms = self.left_ms(&self.s.slots[slot as usize]);
            self.s.live[id as usize].told_ms -= left_ms;
        }
        self.end_guess(id);
    }
}

/// Duration of a fragment of a task whose work takes longer by a factor, ms.
pub(crate) fn lengthened(duration_ms: u32, slowdown: f64) -> i64 {
    if slowdown == 1.0 { i64::from(duration_ms) } else { (f64::from(duration_ms) * slowdown).round() as i64 }
}
