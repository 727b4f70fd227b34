//! Changes of a running simulation: of the topology, of hosts and of tasks. Each is applied whole or not at all.
//!
//! Effect of frequency and cores: at r = f/f0 the capacity scales by r and the dynamic power by r^k, with the power at rest
//! unchanged; cores scale capacity and dynamic power linearly. k is `frequency_exponent` of the host group: dynamic power is
//! C V^2 f (Weiser et al., OSDI 1994), so k is 3 where voltage follows frequency and 1 where it does not; measurements on
//! servers lie between (Le Sueur and Heiser, HotPower 2010), whence the default of 2.
//!
//! A change that can take capacity away makes the simulation conserve work from then on, whatever policy the trace ran
//! with: otherwise slower hosts would lose work instead of taking longer.

use crate::error::EngineError;
use crate::model::{HostClass, check_power};
use crate::observe::{Observer, TaskResult};
use crate::power::Power;
use crate::sim::Simulation;
use crate::spec::{Allocation, CarbonPoint, HostGroup, Link, PowerModel};
use crate::state::{HostStatus, TaskState};
use crate::workload::NONE;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which hosts a change means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Hosts {
    /// All.
    All,
    /// Those of a cluster.
    Cluster {
        /// Its name.
        cluster: String,
    },
    /// Those of a host group.
    Group {
        /// Its name.
        group: String,
    },
    /// Single ones.
    Names {
        /// Their names.
        names: Vec<String>,
    },
}

/// A piece of future work of a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Duration, ms.
    pub duration_ms: i64,
    /// CPU demand, MHz.
    pub cpu_mhz: f64,
    /// GPU demand, MHz.
    #[serde(default)]
    pub gpu_mhz: f64,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Adds hosts of a new group to a cluster.
    AddHosts {
        /// Cluster.
        cluster: String,
        /// Group; its `count` hosts are added.
        group: Box<HostGroup>,
    },
    /// Takes hosts out of service, idle ones first; busy ones finish their tasks and take no new ones.
    RemoveHosts {
        /// Among these.
        hosts: Hosts,
        /// At most so many; absent means all.
        #[serde(default)]
        count: Option<u32>,
        /// Put running tasks back into the queue, with their progress, instead of waiting for their end.
        #[serde(default)]
        evict: bool,
    },
    /// Changes cores, frequency or memory.
    ResizeHosts {
        /// These.
        hosts: Hosts,
        /// New number of cores.
        #[serde(default)]
        core_count: Option<u32>,
        /// New speed of a core, MHz.
        #[serde(default)]
        core_speed_mhz: Option<f64>,
        /// New memory, MiB.
        #[serde(default)]
        memory_mib: Option<i64>,
    },
    /// Runs hosts at a share of their frequency.
    ThrottleHosts {
        /// These.
        hosts: Hosts,
        /// Frequency relative to the group's, above 0.
        speed_ratio: f64,
    },
    /// Gives hosts another power model, of the hosts as they are: what was resized before is not scaled once more.
    SetPowerModel {
        /// These.
        hosts: Hosts,
        /// The model of the CPU.
        power_model: PowerModel,
    },
    /// Takes hosts down; their tasks fail.
    FailHosts {
        /// These.
        hosts: Hosts,
    },
    /// Brings failed hosts back.
    RepairHosts {
        /// These.
        hosts: Hosts,
    },
    /// Replaces the carbon intensities of a cluster.
    SetCarbon {
        /// Cluster.
        cluster: String,
        /// Intensities.
        carbon: Vec<CarbonPoint>,
    },
    /// Caps the power of a cluster's source; absent lifts the cap.
    SetPowerCap {
        /// Cluster.
        cluster: String,
        /// Cap, W.
        max_power_w: Option<f64>,
    },
    /// Adds or replaces a link.
    SetLink {
        /// The link.
        link: Link,
    },
    /// Replaces the allocation policy.
    SetAllocation {
        /// The policy.
        allocation: Allocation,
    },
    /// Cancels a task, queued or running: it ends as terminated.
    CancelTask {
        /// Identifier.
        task: String,
    },
    /// Moves a running task to a host; it goes on where it was.
    MigrateTask {
        /// Identifier.
        task: String,
        /// Host.
        host: String,
    },
    /// Replaces all work that a running task has left.
    SetRemainingWork {
        /// Identifier.
        task: String,
        /// What is left.
        work: Vec<Work>,
    },
    /// Forgets all tasks that are not submitted yet.
    DropFuture,
    /// From here on slower hosts take longer instead of losing work.
    ConserveWork,
}

/// What changes had to tell, until it is sure that all of them hold.
#[derive(Default)]
struct News {
    ended: Vec<TaskResult>,
    closing: bool,
}

impl Observer for News {
    fn sample(&mut self, _: &Simulation, closing: bool) {
        self.closing |= closing;
    }

    fn task_ended(&mut self, _: &Simulation, result: &TaskResult) {
        self.ended.push(result.clone());
    }
}

impl News {
    fn tell<O: Observer>(self, simulation: &Simulation, observer: &mut O) {
        for result in &self.ended {
            observer.task_ended(simulation, result);
        }
        if self.closing {
            observer.sample(simulation, true);
        }
    }
}

impl Simulation {
    /// Applies a change now.
    ///
    /// # Errors
    /// When the change names what does not exist or has values that no simulation can use. Nothing is changed then.
    pub fn apply<O: Observer>(&mut self, change: &Change, observer: &mut O) -> Result<(), EngineError> {
        self.apply_all(std::slice::from_ref(change), observer)
    }

    /// Applies changes in order, all or none.
    ///
    /// # Errors
    /// As `apply`.
    pub fn apply_all<O: Observer>(&mut self, changes: &[Change], observer: &mut O) -> Result<(), EngineError> {
        *self = self.with_changes(changes, observer)?;
        Ok(())
    }

    /// A fork to which changes are applied now, in order.
    ///
    /// # Errors
    /// As `apply`.
    pub fn with_changes<O: Observer>(&self, changes: &[Change], observer: &mut O) -> Result<Self, EngineError> {
        let mut next = self.clone();
        // Nobody may hear of what is taken back when a later change is refused.
        let mut news = News::default();
        for change in changes {
            next.apply_one(change, &mut news)?;
        }
        news.tell(&next, observer);
        Ok(next)
    }

    fn apply_one<O: Observer>(&mut self, change: &Change, observer: &mut O) -> Result<(), EngineError> {
        match change {
            Change::AddHosts { cluster, group } => self.add_hosts(cluster, group),
            Change::RemoveHosts { hosts, count, evict } => self.remove_hosts(hosts, *count, *evict),
            Change::ResizeHosts { hosts, core_count, core_speed_mhz, memory_mib } => {
                self.resize_hosts(hosts, *core_count, *core_speed_mhz, *memory_mib)
            }
            Change::ThrottleHosts { hosts, speed_ratio } => self.throttle_hosts(hosts, *speed_ratio),
            Change::SetPowerModel { hosts, power_model } => self.set_power_model(hosts, power_model),
            Change::FailHosts { hosts } => {
                for host in self.select(hosts)? {
                    self.fail_host(host, observer);
                }
                Ok(())
            }
            Change::RepairHosts { hosts } => {
                self.select(hosts)?.into_iter().for_each(|host| self.repair_host(host));
                Ok(())
            }
            Change::SetCarbon { cluster, carbon } => self.set_carbon(cluster, carbon, observer),
            Change::SetPowerCap { cluster, max_power_w } => self.set_power_cap(cluster, *max_power_w),
            Change::SetLink { link } => self.set_link(link),
            Change::SetAllocation { allocation } => self.set_allocation(allocation),
            Change::CancelTask { task } => self.cancel_task(task, observer),
            Change::MigrateTask { task, host } => self.migrate_task(task, host),
            Change::SetRemainingWork { task, work } => self.set_remaining_work(task, work),
            Change::DropFuture => {
                self.drop_future();
                Ok(())
            }
            Change::ConserveWork => {
                self.conserve_work();
                Ok(())
            }
        }
    }

    /// Hosts that are not removed and that a selector means.
    fn select(&self, hosts: &Hosts) -> Result<Vec<usize>, EngineError> {
        let in_service = (0..self.s.hosts.len()).filter(|&h| self.s.hosts[h].status != HostStatus::Removed);
        match hosts {
            Hosts::All => Ok(in_service.collect()),
            Hosts::Cluster { cluster } => {
                let index = self.model.cluster_index(cluster)? as usize;
                Ok(in_service.filter(|&host| self.cluster_of(host) == index).collect())
            }
            Hosts::Group { group } => {
                let named = |host: &usize| &self.model.classes[self.s.hosts[*host].class as usize].group.name == group;
                if !self.model.classes.iter().any(|class| &class.group.name == group) {
                    let known: Vec<_> = self.model.classes.iter().map(|c| c.group.name.as_str()).collect();
                    let known = known.join(", ");
                    return Err(EngineError::Unknown { kind: "host group", name: group.clone(), known });
                }
                Ok(in_service.filter(named).collect())
            }
            Hosts::Names { names } => names.iter().map(|name| self.host_index(name)).collect(),
        }
    }

    fn add_hosts(&mut self, cluster: &str, group: &HostGroup) -> Result<(), EngineError> {
        let cluster = self.model.cluster_index(cluster)?;
        let model = Arc::make_mut(&mut self.model);
        let class = model.add_class(group, cluster, "group")?;
        for _ in 0..group.count {
            let ordinal = Arc::make_mut(&mut self.model).next_ordinal(&group.name);
            self.push_host(class, ordinal);
        }
        self.request_scheduling();
        self.invoke_engine();
        Ok(())
    }

    fn remove_hosts(&mut self, hosts: &Hosts, count: Option<u32>, evict: bool) -> Result<(), EngineError> {
        let mut selected = self.select(hosts)?;
        if count.is_some() {
            // Capacity is asked back: hosts that give none now do not count.
            selected.retain(|&host| self.s.hosts[host].status == HostStatus::Up);
        }
        selected.sort_by_key(|&host| (self.s.hosts[host].slot_count, std::cmp::Reverse(host)));
        selected.truncate(count.map_or(usize::MAX, |n| n as usize));
        for host in selected {
            self.set_status(host, HostStatus::Draining);
            if evict {
                let tasks: Vec<u32> = self.slots_of(host).map(|slot| self.s.slots[slot].live).collect();
                tasks.into_iter().for_each(|id| self.pause_task(id));
            }
            if self.s.hosts[host].slot_count == 0 && self.s.hosts[host].status != HostStatus::Removed {
                self.switch_off(host);
            }
        }
        Ok(())
    }

    fn resize_hosts(
        &mut self,
        hosts: &Hosts,
        core_count: Option<u32>,
        core_speed_mhz: Option<f64>,
        memory_mib: Option<i64>,
    ) -> Result<(), EngineError> {
        self.conserve_work();
        self.reclass(hosts, |class| {
            let old = class.group.clone();
            let mut group = old.clone();
            group.core_count = core_count.unwrap_or(old.core_count);
            group.core_speed_mhz = core_speed_mhz.unwrap_or(old.core_speed_mhz);
            group.memory_mib = memory_mib.unwrap_or(old.memory_mib);
            let mut next = HostClass::new(&group, class.cluster, "resize_hosts")?;
            let cores = f64::from(group.core_count) / f64::from(old.core_count);
            let frequency = group.core_speed_mhz / old.core_speed_mhz;
            next.dynamic_factor = class.dynamic_factor * cores * frequency.powf(group.frequency_exponent);
            Ok(next)
        })
    }

    fn set_power_model(&mut self, hosts: &Hosts, power_model: &PowerModel) -> Result<(), EngineError> {
        check_power(power_model, "power_model")?;
        self.reclass(hosts, |class| {
            let mut next = class.clone();
            next.power = Power::from(power_model);
            next.idle_w = next.power.at(0.0);
            next.dynamic_factor = 1.0;
            next.group.power_model = power_model.clone();
            Ok(next)
        })
    }

    /// Moves hosts to changed copies of their classes; a class that loses all its hosts is changed in place.
    fn reclass(
        &mut self,
        hosts: &Hosts,
        change: impl Fn(&HostClass) -> Result<HostClass, EngineError>,
    ) -> Result<(), EngineError> {
        let selected = self.select(hosts)?;
        let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for host in selected {
            by_class.entry(self.s.hosts[host].class).or_default().push(host);
        }
        for (old, members) in by_class {
            let next = change(&self.model.classes[old as usize])?;
            let whole = self.s.hosts.iter().filter(|host| host.class == old).count() == members.len();
            let model = Arc::make_mut(&mut self.model);
            let new = if whole {
                model.classes[old as usize] = next;
                self.scratch.bisection = Default::default();
                old
            } else {
                model.classes.push(next);
                model.classes.len() as u32 - 1
            };
            for host in members {
                self.adopt_class(host, new);
            }
        }
        Ok(())
    }

    /// Lets a host follow its class, at once.
    fn adopt_class(&mut self, host: usize, class: u32) {
        self.flush_host(host);
        let c = &self.model.classes[class as usize];
        let state = &mut self.s.hosts[host];
        state.class = class;
        state.capacity_mhz = c.capacity_mhz * state.speed_ratio;
        state.dynamic_factor = c.dynamic_factor * state.speed_ratio.powf(c.group.frequency_exponent);
        if matches!(state.status, HostStatus::Up | HostStatus::Draining) {
            self.s.in_service_mhz[host] = state.capacity_mhz;
        }
        let views = &mut self.s.views;
        let cores = c.group.core_count as i32;
        views.free_cores[host] += cores - views.core_count[host];
        views.core_count[host] = cores;
        views.free_memory_mib[host] += c.group.memory_mib - views.memory_mib[host];
        views.memory_mib[host] = c.group.memory_mib;
        views.core_speed_mhz[host] = c.group.core_speed_mhz * state.speed_ratio;
        views.capacity_mhz[host] = state.capacity_mhz;
        self.reindex(host, false);
        self.mark_dirty(host);
        self.invoke_engine();
        self.request_scheduling();
    }

    fn throttle_hosts(&mut self, hosts: &Hosts, speed_ratio: f64) -> Result<(), EngineError> {
        if !speed_ratio.is_finite() || speed_ratio <= 0.0 {
            return Err(EngineError::invalid("throttle_hosts.speed_ratio", speed_ratio.to_string(), "above 0"));
        }
        self.conserve_work();
        for host in self.select(hosts)? {
            self.flush_host(host);
            self.s.hosts[host].speed_ratio = speed_ratio;
            self.adopt_class(host, self.s.hosts[host].class);
        }
        Ok(())
    }

    fn set_carbon<O: Observer>(
        &mut self,
        cluster: &str,
        carbon: &[CarbonPoint],
        observer: &mut O,
    ) -> Result<(), EngineError> {
        let index = self.model.cluster_index(cluster)? as usize;
        if let Some(point) = carbon.iter().find(|p| !p.intensity_g_per_kwh.is_finite() || p.intensity_g_per_kwh < 0.0) {
            let found = point.intensity_g_per_kwh.to_string();
            return Err(EngineError::invalid("set_carbon.carbon", found, "finite intensities of at least 0 g/kWh"));
        }
        let mut carbon = carbon.to_vec();
        carbon.sort_by_key(|point| point.timestamp_ms);
        let none = carbon.is_empty();
        Arc::make_mut(&mut self.model).clusters[index].carbon = carbon;
        // No row is the present one: the next engine invocation finds it.
        self.s.clusters[index].carbon_row = NONE;
        self.s.clusters[index].carbon_deadline_ms = if none { i64::MAX } else { self.s.now };
        if none {
            self.hear_intensity(index, 0.0, observer);
        }
        self.invoke_engine();
        Ok(())
    }

    fn set_power_cap(&mut self, cluster: &str, max_power_w: Option<f64>) -> Result<(), EngineError> {
        let index = self.model.cluster_index(cluster)? as usize;
        if max_power_w.is_some_and(|cap| !cap.is_finite() || cap <= 0.0) {
            return Err(EngineError::invalid(
                "set_power_cap.max_power_w",
                format!("{max_power_w:?}"),
                "above 0 W, or none",
            ));
        }
        self.conserve_work();
        Arc::make_mut(&mut self.model).clusters[index].max_power_w = max_power_w;
        for host in 0..self.s.hosts.len() {
            if self.cluster_of(host) == index && self.s.hosts[host].power_limit_w != f64::INFINITY {
                self.flush_host(host);
                self.s.hosts[host].power_limit_w = f64::INFINITY;
                self.mark_dirty(host);
            }
        }
        self.invoke_engine();
        Ok(())
    }

    fn set_link(&mut self, link: &Link) -> Result<(), EngineError> {
        self.model.cluster_index(&link.from)?;
        self.model.cluster_index(&link.to)?;
        let links = &mut Arc::make_mut(&mut self.model).links;
        links.retain(|l| !((l.from == link.from && l.to == link.to) || (l.from == link.to && l.to == link.from)));
        links.push(link.clone());
        Ok(())
    }

    fn set_allocation(&mut self, allocation: &Allocation) -> Result<(), EngineError> {
        Arc::make_mut(&mut self.model).options.allocation = allocation.clone();
        self.forget_index();
        self.s.memorizing = crate::state::MemorizingState::default();
        for host in 0..self.s.hosts.len() {
            self.memorize_host(host);
        }
        for host in 0..self.s.hosts.len() {
            // Buckets count tasks: bring each host up to the number it has.
            self.memorize_again(host);
        }
        self.request_scheduling();
        Ok(())
    }

    /// Live number of a task by its identifier.
    ///
    /// # Errors
    /// When no live task has it.
    pub fn live_task(&self, id: &str) -> Result<u32, EngineError> {
        let active = |live: &crate::state::Live| !matches!(live.state, TaskState::Completed | TaskState::Terminated);
        (0..self.s.live.len())
            .filter(|&i| !self.s.free_live.contains(&(i as u32)))
            .find(|&i| {
                let live = &self.s.live[i];
                active(live) && self.chunks[live.chunk as usize].data.ids.text(live.index as usize) == id
            })
            .map(|i| i as u32)
            .ok_or_else(|| EngineError::Unknown {
                kind: "live task",
                name: id.to_owned(),
                known: format!("{} running, {} queued", self.s.counts.active, self.s.counts.pending),
            })
    }

    fn cancel_task<O: Observer>(&mut self, task: &str, observer: &mut O) -> Result<(), EngineError> {
        let id = self.live_task(task)?;
        match self.s.live[id as usize].state {
            TaskState::Running => {
                let slot = self.s.live[id as usize].slot;
                let host = self.s.slots[slot as usize].host as usize;
                self.pause_task(id);
                self.mark_dirty(host);
                self.unqueue(id);
            }
            TaskState::Queued | TaskState::Failed | TaskState::Paused => {
                self.unqueue(id);
                // It may have been the one that others waited behind.
                self.request_scheduling();
            }
            _ => {}
        }
        self.s.live[id as usize].finished_ms = Some(self.s.now);
        self.terminate(id, observer);
        Ok(())
    }

    fn unqueue(&mut self, id: u32) {
        let before = self.s.queue.len();
        self.s.queue.retain(|&other| other != id);
        self.s.counts.pending -= (before - self.s.queue.len()) as u32;
    }

    fn migrate_task(&mut self, task: &str, host: &str) -> Result<(), EngineError> {
        let id = self.live_task(task)?;
        let host = self.host_index(host)?;
        if self.s.live[id as usize].state != TaskState::Running || self.s.hosts[host].status != HostStatus::Up {
            return Err(EngineError::invalid(
                "migrate_task",
                format!(
                    "task {task} is {:?}, the host {:?}",
                    self.s.live[id as usize].state, self.s.hosts[host].status
                ),
                "a running task and a host that is up",
            ));
        }
        self.pause_task(id);
        self.unqueue(id);
        self.s.counts.pending += 1;
        self.place(id, host);
        self.memorize_placement(host);
        Ok(())
    }

    fn set_remaining_work(&mut self, task: &str, work: &[Work]) -> Result<(), EngineError> {
        let id = self.live_task(task)?;
        self.replace_work(id, work)
    }

    /// Replaces all work that a live task has left.
    ///
    /// # Errors
    /// When a piece has a negative duration or demand.
    pub fn replace_work(&mut self, id: u32, work: &[Work]) -> Result<(), EngineError> {
        let demand = |mhz: f64| mhz.is_finite() && mhz >= 0.0;
        if let Some(piece) = work.iter().find(|w| w.duration_ms < 0 || !demand(w.cpu_mhz) || !demand(w.gpu_mhz)) {
            return Err(EngineError::invalid(
                "set_remaining_work",
                format!("{piece:?}"),
                "durations and demands of at least 0",
            ));
        }
        let fragments: Vec<_> = work
            .iter()
            .map(|w| crate::state::Fragment {
                duration_ms: w.duration_ms,
                cpu_mhz: w.cpu_mhz,
                gpu_mhz: w.gpu_mhz,
                overhead: false,
            })
            .collect();
        self.tell_replaced(id, work);
        self.close_feed(id);
        let now = self.s.now;
        let slot = self.s.live[id as usize].slot;
        if slot == NONE {
            let live = &mut self.s.live[id as usize];
            let data = &self.chunks[live.chunk as usize].data;
            live.saved_cursor = data.fragment_offset[live.index as usize + 1];
            live.saved = fragments;
            return Ok(());
        }
        let state = &mut self.s.slots[slot as usize];
        state.cursor = state.stop;
        state.injected = fragments;
        // Who is taken off the host in this instant saves none of it.
        (state.remaining_cpu, state.remaining_gpu) = (0.0, 0.0);
        if !state.started {
            // Placed in this instant: it begins with this work anyway.
            return Ok(());
        }
        state.deadline_ms = now;
        let host = state.host as usize;
        self.s.calendar.set(host, now);
        self.invoke_engine();
        Ok(())
    }

    fn drop_future(&mut self) {
        for (state, chunk) in self.s.chunks.iter_mut().zip(&self.chunks) {
            state.cursor = chunk.data.len() as u32;
        }
        self.s.submit_pending_ms = i64::MAX;
        self.s.events.retain(|event| event.0.kind != crate::state::EventKind::Submit);
    }

    /// Makes slower hosts take longer instead of losing work, from now on.
    pub fn conserve_work(&mut self) {
        if self.conserves_work() {
            return;
        }
        let now = self.s.now;
        for host in 0..self.s.hosts.len() {
            self.flush_host(host);
            let slots: Vec<usize> = self.slots_of(host).collect();
            let has_gpu = self.model.classes[self.s.hosts[host].class as usize].gpu.is_some();
            for index in slots {
                let slot = &mut self.s.slots[index];
                let dt = (now - slot.since_ms) as f64;
                slot.demanded_mhz_ms += slot.cpu_mhz * dt;
                slot.supplied_mhz_ms += slot.cpu_supply_mhz * dt;
                slot.gpu_supplied_mhz_ms += slot.gpu_supply_mhz * dt;
                slot.since_ms = now;
                if slot.started {
                    let left = (slot.deadline_ms - now).max(0) as f64;
                    slot.remaining_cpu = slot.cpu_mhz * left;
                    slot.remaining_gpu = if has_gpu { slot.gpu_mhz * left } else { 0.0 };
                }
            }
        }
        self.s.conserve_work = true;
    }
}
