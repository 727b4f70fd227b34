//! Failures of hosts (SEMANTICS 10): recorded or drawn, one after the other.
//!
//! Deviations: drawn failures go on until the tasks end (the reference stops after one), and victims come from the seed.

use crate::observe::Observer;
use crate::rng::{Draw, Purpose};
use crate::sim::Simulation;
use crate::spec::FailureModel;
use crate::state::{EventKind, HostStatus};

const MS_PER_HOUR: f64 = 3_600_000.0;

impl Simulation {
    /// Schedules the first failure.
    pub(crate) fn start_failures(&mut self) {
        if let Some(FailureModel::Trace { start_point, .. }) = &self.model.options.failures {
            self.s.failures.next = *start_point;
        }
        self.schedule_failure();
    }

    fn schedule_failure(&mut self) {
        let now = self.s.now;
        let Some(model) = &self.model.options.failures else { return };
        let wait = match model {
            FailureModel::Trace { events, repeat, start_point } => {
                let done = self.s.failures.occurrence as usize;
                if events.is_empty() || (!*repeat && done >= events.len()) {
                    return;
                }
                events[(start_point + done) % events.len()].interval_ms
            }
            FailureModel::Custom { interarrival_hours, .. } => {
                hours_ms(self.draw(Purpose::FailureInterval).sample(interarrival_hours))
            }
        };
        self.schedule(now.saturating_add(wait.max(0)), EventKind::Fail);
    }

    fn draw(&self, purpose: Purpose) -> Draw {
        Draw::new(self.model.options.seed, purpose, 0, self.s.failures.occurrence)
    }

    /// A failure strikes.
    pub(crate) fn fail_hosts<O: Observer>(&mut self, observer: &mut O) {
        let Some(model) = self.model.options.failures.clone() else { return };
        let (ratio, duration) = match &model {
            FailureModel::Trace { events, start_point, .. } => {
                let event = &events[(start_point + self.s.failures.occurrence as usize) % events.len()];
                (event.host_ratio, event.duration_ms)
            }
            FailureModel::Custom { duration_hours, host_ratio, .. } => (
                self.draw(Purpose::FailureHosts).sample(host_ratio),
                hours_ms(self.draw(Purpose::FailureDuration).sample(duration_hours)),
            ),
        };
        let starving = self.s.counts.active == 0 && !self.s.queue.is_empty();
        self.s.failures.in_vain = if starving { self.s.failures.in_vain + 1 } else { 0 };
        let victims = self.victims(ratio.clamp(0.0, 1.0));
        let number = self.s.failures.occurrence as u32;
        for &host in &victims {
            self.fail_host(host as usize, observer);
        }
        self.s.failures.hit.insert(number, victims);
        self.s.failures.occurrence += 1;
        let end = self.s.now.saturating_add(duration.max(0));
        self.schedule(end, EventKind::Recover(number));
    }

    /// Hosts hit by a failure: a seeded choice among those that are not removed.
    fn victims(&self, ratio: f64) -> Vec<u32> {
        let mut pool: Vec<u32> = (0..self.s.hosts.len() as u32)
            .filter(|&h| self.s.hosts[h as usize].status != HostStatus::Removed)
            .collect();
        let count = (pool.len() as f64 * ratio).round() as usize;
        let mut draw = self.draw(Purpose::Victims);
        for i in 0..count.min(pool.len()) {
            let other = i + draw.below(pool.len() - i);
            pool.swap(i, other);
        }
        pool.truncate(count);
        pool.sort_unstable();
        pool
    }

    /// The hosts of a failure come back, and the next failure is scheduled.
    pub(crate) fn recover_hosts(&mut self, number: u32) {
        for host in self.s.failures.hit.remove(&number).unwrap_or_default() {
            self.repair_host(host as usize);
        }
        self.schedule_failure();
    }

    /// A host goes down; its tasks fail.
    pub(crate) fn fail_host<O: Observer>(&mut self, host: usize, observer: &mut O) {
        if self.s.hosts[host].status != HostStatus::Up {
            return;
        }
        self.set_status(host, HostStatus::Failed);
        let tasks: Vec<u32> = self.slots_of(host).map(|slot| self.s.slots[slot].live).collect();
        for id in tasks {
            self.fail_task(id, observer);
        }
        self.mark_dirty(host);
        self.invoke_engine();
        self.request_scheduling();
    }

    /// A failed host comes back.
    pub(crate) fn repair_host(&mut self, host: usize) {
        if self.s.hosts[host].status != HostStatus::Failed {
            return;
        }
        self.set_status(host, HostStatus::Up);
        self.s.hosts[host].boot_ms = self.s.now;
        self.mark_dirty(host);
        self.invoke_engine();
        self.request_scheduling();
    }

    /// A host without tasks leaves for good.
    pub(crate) fn switch_off(&mut self, host: usize) {
        self.set_status(host, HostStatus::Removed);
        let views = &mut self.s.views;
        views.core_count[host] = 0;
        views.memory_mib[host] = 0;
        views.gpu_cores[host] = 0;
        self.reindex(host, false);
        self.mark_dirty(host);
        self.invoke_engine();
    }

    /// Counts up and down time and lets the scheduler see the change.
    pub(crate) fn set_status(&mut self, host: usize, status: HostStatus) {
        let now = self.s.now;
        let (up, down) = self.up_down_ms(host);
        let state = &mut self.s.hosts[host];
        (state.up_ms, state.down_ms, state.status_since_ms) = (up, down, now);
        let old = std::mem::replace(&mut state.status, status);
        let capacity_mhz = state.capacity_mhz;
        let in_service = |status| matches!(status, HostStatus::Up | HostStatus::Draining);
        self.s.hosts_up = self.s.hosts_up + u32::from(in_service(status)) - u32::from(in_service(old));
        let down = |status| status == HostStatus::Failed;
        self.s.hosts_down = self.s.hosts_down + u32::from(down(status)) - u32::from(down(old));
        self.s.in_service_mhz[host] = if in_service(status) { capacity_mhz } else { 0.0 };
        self.s.views.up[host] = status == HostStatus::Up;
        self.reindex(host, false);
    }

    /// Time a host was up and down since the start, ms.
    pub fn up_down_ms(&self, host: usize) -> (i64, i64) {
        let state = &self.s.hosts[host];
        let passed = self.s.now - state.status_since_ms;
        match state.status {
            HostStatus::Up | HostStatus::Draining => (state.up_ms + passed, state.down_ms),
            HostStatus::Failed => (state.up_ms, state.down_ms + passed),
            HostStatus::Removed => (state.up_ms, state.down_ms),
        }
    }
}

fn hours_ms(hours: f64) -> i64 {
    (hours.max(0.0) * MS_PER_HOUR).round() as i64
}
