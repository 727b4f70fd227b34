//! Time shifting (SEMANTICS 12): deferrable tasks wait for low-carbon hours as long as their deadline allows.

use crate::observe::Observer;
use crate::queue::NEVER;
use crate::scheduler::Choice;
use crate::sim::Simulation;
use crate::spec::{Allocation, Filter, Weigher};
use crate::state::TaskState;
use crate::workload::NONE;

/// Tasks under this length are short.
const SHORT_MS: i64 = 2 * 3600 * 1000;

impl Simulation {
    /// Whether a task waits for cleaner power.
    pub(crate) fn is_held_back(&self, id: u32, memorizing: bool) -> bool {
        let live = &self.s.live[id as usize];
        let (data, task) = (&self.chunks[live.chunk as usize].data, live.index as usize);
        if data.deferrable.get(task) != Some(&true) {
            return false;
        }
        // After the last row of every trace nothing cleaner will be heard of; the reference waits for ever.
        if self.s.clusters.iter().all(|cluster| cluster.carbon_deadline_ms == NEVER) {
            return false;
        }
        let duration = data.duration_ms[task];
        let low = if duration < SHORT_MS { self.s.shift.low_for_short } else { self.s.shift.low_for_long };
        if low {
            return false;
        }
        let deadline = data.deadline_ms.get(task).copied().unwrap_or(-1);
        let end = self.s.now + self.model.options.start_epoch_ms + duration;
        if memorizing { end <= deadline } else { end < deadline }
    }

    /// The first queued task that is not held back, on the best host.
    pub(crate) fn choose_shifted(
        &mut self,
        first: &mut usize,
        filters: &[Filter],
        weighers: &[Weigher],
        subset: usize,
    ) -> Choice {
        for position in *first..self.s.queue.len() {
            let id = self.s.queue[position];
            if self.is_held_back(id, false) {
                continue;
            }
            // Flags do not change within a cycle: what is held back now stays so.
            *first = position;
            return match self.choose_host(id, filters, weighers, subset) {
                Some(host) => Choice::Place(position, host),
                None => Choice::Blocked(position),
            };
        }
        Choice::Nothing
    }

    /// A new carbon intensity: the flags change, running tasks may be paused, and the scheduler runs.
    pub(crate) fn shift_on_carbon<O: Observer>(&mut self, cluster: usize, intensity: f64, _observer: &mut O) {
        let model = self.model.clone();
        let Allocation::TimeShift {
            window_size,
            forecast,
            short_forecast_threshold,
            long_forecast_threshold,
            forecast_size,
            task_stopper,
            ..
        } = &model.options.allocation
        else {
            return;
        };
        if *forecast {
            let coming = self.coming_intensities(cluster, *forecast_size);
            self.s.shift.low_for_short = intensity < quantile(&coming, *short_forecast_threshold, intensity);
            self.s.shift.low_for_long = intensity < quantile(&coming, *long_forecast_threshold, intensity);
        } else {
            let previous = self.s.shift.past.back().copied().unwrap_or(0.0);
            let mean = running_mean(&mut self.s.shift.past, intensity, *window_size);
            self.s.shift.low_for_short = intensity < mean && intensity > previous;
            self.s.shift.low_for_long = intensity < mean;
        }
        if let Some(stopper) = task_stopper {
            let threshold = if stopper.forecast {
                let coming = self.coming_intensities(cluster, stopper.forecast_size);
                quantile(&coming, stopper.forecast_threshold, intensity)
            } else {
                running_mean(&mut self.s.shift.stopper_past, intensity, stopper.window_size)
            };
            if intensity > threshold {
                self.pause_all();
            }
        }
    }

    fn pause_all(&mut self) {
        let running: Vec<u32> = (0..self.s.hosts.len())
            .flat_map(|host| self.slots_of(host).collect::<Vec<_>>())
            .map(|slot| self.s.slots[slot].live)
            .collect();
        for id in running {
            if self.s.live[id as usize].slot != NONE && self.s.live[id as usize].state == TaskState::Running {
                self.pause_task(id);
            }
        }
    }

    /// Sorted intensities of the `size - 1` rows after the present one.
    fn coming_intensities(&self, cluster: usize, size: usize) -> Vec<f64> {
        let rows = &self.model.clusters[cluster].carbon;
        let first = (self.s.clusters[cluster].carbon_row as usize + 1).min(rows.len());
        let end = (first + size.saturating_sub(1)).min(rows.len());
        let mut values: Vec<f64> = rows[first..end].iter().map(|point| point.intensity_g_per_kwh).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// Element at round(n q); at the end of the trace, where nothing comes, the present value.
fn quantile(sorted: &[f64], q: f64, otherwise: f64) -> f64 {
    let index = (sorted.len() as f64 * q + 0.5).floor() as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(otherwise)
}

fn running_mean(past: &mut std::collections::VecDeque<f64>, value: f64, size: usize) -> f64 {
    past.push_back(value);
    if past.len() > size.max(1) {
        past.pop_front();
    }
    past.iter().sum::<f64>() / past.len() as f64
}
