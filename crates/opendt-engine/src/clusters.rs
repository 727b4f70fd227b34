//! Clusters: carbon, batteries and the cap of a power source.
//!
//! The whole cluster runs from the grid or from its battery (SEMANTICS 9); charging draws its power in addition to the load.

use crate::model::Model;
use crate::observe::Observer;
use crate::queue::NEVER;
use crate::sim::{Simulation, carbon_owner};
use crate::spec::BatteryPolicy;
use crate::state::{BatteryMode, BatteryState, ClusterState};
use std::collections::VecDeque;

const J_PER_KWH: f64 = 3_600_000.0;

impl Simulation {
    /// Clusters at time 0. Every listener first hears row 0 of the carbon trace, as in the reference.
    pub(crate) fn start_clusters(&mut self) {
        for index in 0..self.model.clusters.len() {
            let model = self.model.clone();
            let cluster = &model.clusters[index];
            let battery = cluster.battery.as_ref().map(|battery| {
                let window = match battery.policy {
                    BatteryPolicy::RunningMean { starting_threshold, .. }
                    | BatteryPolicy::RunningMeanPlus { starting_threshold, .. }
                    | BatteryPolicy::RunningMedian { starting_threshold, .. }
                    | BatteryPolicy::RunningQuartiles { starting_threshold, .. } => {
                        VecDeque::from([starting_threshold])
                    }
                    _ => VecDeque::new(),
                };
                BatteryState {
                    mode: BatteryMode::Idle,
                    charge_j: battery.initial_charge_kwh * J_PER_KWH,
                    delivered_j: 0.0,
                    drawn_j: 0.0,
                    output_w: 0.0,
                    since_ms: self.s.now,
                    deadline_ms: NEVER,
                    window,
                    previous_g_per_kwh: 0.0,
                    decide: true,
                }
            });
            self.s.clusters.push(ClusterState {
                carbon_row: 0,
                intensity_g_per_kwh: 0.0,
                emission_g: 0.0,
                emission_mark_j: 0.0,
                carbon_deadline_ms: NEVER,
                battery,
                retired_j: 0.0,
            });
            if let Some(first) = cluster.carbon.first() {
                self.s.clusters[index].carbon_deadline_ms = self.s.now;
                self.hear_intensity(index, first.intensity_g_per_kwh, &mut crate::observe::Deaf);
            }
        }
    }

    /// Moves to the row of the carbon trace that holds now.
    pub(crate) fn update_carbon<O: Observer>(&mut self, observer: &mut O) {
        for index in 0..self.s.clusters.len() {
            if self.s.clusters[index].carbon_deadline_ms > self.s.now {
                continue;
            }
            let absolute = self.s.now + self.model.options.start_epoch_ms;
            let rows = &self.model.clusters[index].carbon;
            let row = rows.partition_point(|point| point.timestamp_ms <= absolute).saturating_sub(1);
            let intensity = rows[row].intensity_g_per_kwh;
            let deadline = next_carbon_ms(&self.model, index, self.s.now);
            if let Some(timers) = &mut self.s.timers {
                timers.set(carbon_owner(index), deadline);
            }
            let state = &mut self.s.clusters[index];
            let moved = state.carbon_row as usize != row;
            state.carbon_row = row as u32;
            state.carbon_deadline_ms = deadline;
            if moved {
                self.hear_intensity(index, intensity, observer);
            }
        }
    }

    /// A row of the trace begins to hold: the source, the battery's policy and the scheduler hear it.
    pub(crate) fn hear_intensity<O: Observer>(&mut self, index: usize, intensity: f64, observer: &mut O) {
        self.flush_emission(index);
        let previous = self.s.clusters[index].intensity_g_per_kwh;
        self.s.clusters[index].intensity_g_per_kwh = intensity;
        let policy = self.model.clusters[index].battery.as_ref().map(|battery| battery.policy);
        if let (Some(policy), Some(battery)) = (policy, &mut self.s.clusters[index].battery) {
            battery.decide |= intensity != previous;
            battery.previous_g_per_kwh = previous;
            if let BatteryPolicy::RunningMean { window_size, .. }
            | BatteryPolicy::RunningMeanPlus { window_size, .. }
            | BatteryPolicy::RunningMedian { window_size, .. }
            | BatteryPolicy::RunningQuartiles { window_size, .. } = policy
            {
                battery.window.push_back(intensity);
                if battery.window.len() > window_size.max(1) {
                    battery.window.pop_front();
                }
            }
        }
        if self.is_carbon_aware() {
            self.shift_on_carbon(index, intensity, observer);
            self.request_scheduling();
        }
    }

    /// Energy that a cluster took from the grid since the start, J.
    pub fn grid_energy_j(&self, index: usize) -> f64 {
        let mut load = Vec::new();
        self.load_energy_j(&mut load);
        self.grid_energy_of_load_j(index, load[index])
    }

    /// The same, given the energy of the cluster's hosts.
    pub fn grid_energy_of_load_j(&self, index: usize, load_j: f64) -> f64 {
        let state = &self.s.clusters[index];
        let battery = state.battery.as_ref().map_or(0.0, |battery| {
            let dt = (self.s.now - battery.since_ms) as f64;
            let charging = if battery.mode == BatteryMode::Charging { self.charging_w(index) } else { 0.0 };
            battery.drawn_j + charging * dt * 1e-3 - self.battery_energy_j(index)
        });
        load_j + state.retired_j + battery
    }

    /// Energy that a battery delivered since the start, J.
    pub fn battery_energy_j(&self, index: usize) -> f64 {
        self.s.clusters[index].battery.as_ref().map_or(0.0, |battery| {
            battery.delivered_j + battery.output_w * (self.s.now - battery.since_ms) as f64 * 1e-3
        })
    }

    /// Charge of a battery, J.
    pub fn battery_charge_j(&self, index: usize) -> f64 {
        self.s.clusters[index].battery.as_ref().map_or(0.0, |battery| {
            let seconds = (self.s.now - battery.since_ms) as f64 / 1000.0;
            match battery.mode {
                BatteryMode::Idle => battery.charge_j,
                BatteryMode::Charging => battery.charge_j + self.charging_w(index) * seconds,
                BatteryMode::Discharging => battery.charge_j - battery.output_w * seconds,
            }
        })
    }

    /// Power that a cluster takes from the grid for a load, W.
    pub fn grid_power_w(&self, index: usize, load_w: f64) -> f64 {
        match self.s.clusters[index].battery.as_ref().map(|battery| battery.mode) {
            Some(BatteryMode::Discharging) => 0.0,
            Some(BatteryMode::Charging) => load_w + self.charging_w(index),
            _ => load_w,
        }
    }

    /// Carbon emitted since the start for a grid energy, g.
    pub fn emission_of_energy_g(&self, index: usize, grid_j: f64) -> f64 {
        let state = &self.s.clusters[index];
        state.emission_g + state.intensity_g_per_kwh * (grid_j - state.emission_mark_j) / J_PER_KWH
    }

    fn flush_emission(&mut self, index: usize) {
        if self.s.clusters[index].intensity_g_per_kwh == 0.0 && self.s.now == 0 {
            return;
        }
        let grid = self.grid_energy_j(index);
        let emission = self.emission_of_energy_g(index, grid);
        let state = &mut self.s.clusters[index];
        state.emission_g = emission;
        state.emission_mark_j = grid;
    }

    fn charging_w(&self, index: usize) -> f64 {
        self.model.clusters[index].battery.as_ref().map_or(0.0, |battery| battery.charging_w)
    }

    /// After all hosts settled: caps and batteries follow the load.
    pub(crate) fn update_supplies(&mut self) {
        if self.model.clusters.iter().all(|cluster| cluster.battery.is_none() && cluster.max_power_w.is_none()) {
            return;
        }
        self.enforce_caps();
        let mut load = Vec::new();
        self.load_w(&mut load);
        for (index, &load_w) in load.iter().enumerate() {
            if self.s.clusters[index].battery.is_some() {
                self.update_battery(index, load_w);
            }
        }
    }

    fn update_battery(&mut self, index: usize, load_w: f64) {
        let Some(battery) = self.s.clusters[index].battery.clone() else { return };
        let mut battery = battery;
        let now = self.s.now;
        let charging_w = self.charging_w(index);
        settle(&mut battery, now, charging_w);
        let Some(model) = self.model.clusters[index].battery.clone() else { return };
        let capacity_j = model.capacity_kwh * J_PER_KWH;
        let (full, empty) = (battery.charge_j >= capacity_j, battery.charge_j <= 0.0);
        let stuck = match battery.mode {
            BatteryMode::Idle => false,
            BatteryMode::Charging => full,
            BatteryMode::Discharging => empty,
        };
        if battery.decide || stuck {
            battery.decide = false;
            let intensity = self.s.clusters[index].intensity_g_per_kwh;
            battery.mode = decide(&model.policy, &battery, intensity, full, empty);
        }
        battery.output_w = if battery.mode == BatteryMode::Discharging { load_w } else { 0.0 };
        let left_s = match battery.mode {
            BatteryMode::Idle => f64::INFINITY,
            BatteryMode::Charging => (capacity_j - battery.charge_j) / charging_w,
            BatteryMode::Discharging => battery.charge_j / battery.output_w,
        };
        let left_ms = (left_s * 1000.0).ceil();
        battery.deadline_ms = if left_ms < 9e15 { now + left_ms as i64 } else { NEVER };
        // The meter of emissions must know the mode up to now before it changes.
        self.flush_emission(index);
        self.s.clusters[index].battery = Some(battery);
    }

    /// Limits the hosts of a capped source to max-min fair parts of its power.
    ///
    /// The reference ignores `maxPower`; a user expects it to hold. A limited host computes as much as its part pays for.
    fn enforce_caps(&mut self) {
        for index in 0..self.model.clusters.len() {
            let Some(cap_w) = self.model.clusters[index].max_power_w else { continue };
            self.enforce_cap(index, cap_w);
        }
    }

    fn enforce_cap(&mut self, index: usize, cap_w: f64) {
        let hosts: Vec<usize> = (0..self.s.hosts.len()).filter(|&h| self.cluster_of(h) == index).collect();
        let wanted: Vec<f64> = hosts.iter().map(|&host| self.wanted_power_w(host)).collect();
        let total: f64 = wanted.iter().sum();
        let mut limits = vec![f64::INFINITY; hosts.len()];
        if total > cap_w {
            let mut share = vec![0.0; hosts.len()];
            crate::sharing::divide(crate::spec::Sharing::MaxMinFairness, cap_w, cap_w, 0, &wanted, &mut share);
            for (limit, (&share, &wanted)) in limits.iter_mut().zip(share.iter().zip(&wanted)) {
                if share < wanted {
                    *limit = share;
                }
            }
        }
        for (&host, &limit) in hosts.iter().zip(&limits) {
            if self.s.hosts[host].power_limit_w != limit {
                self.flush_host(host);
                self.s.hosts[host].power_limit_w = limit;
                self.refresh_host(host, &mut crate::observe::Deaf);
            }
        }
    }

    /// Power a host would draw without a limit, W.
    fn wanted_power_w(&self, host: usize) -> f64 {
        let state = &self.s.hosts[host];
        if state.power_limit_w == f64::INFINITY {
            return self.s.power_w[host];
        }
        let class = &self.model.classes[state.class as usize];
        class.cpu_power_w((self.s.demand_mhz[host] / state.capacity_mhz).min(1.0), state.dynamic_factor)
            + state.gpu_power_w
    }
}

/// When the next row of a cluster's carbon trace begins to hold, ms.
pub(crate) fn next_carbon_ms(model: &Model, cluster: usize, now: i64) -> i64 {
    let start = model.options.start_epoch_ms;
    let Some(cluster) = model.clusters.get(cluster) else { return NEVER };
    let row = cluster.carbon.partition_point(|point| point.timestamp_ms <= now + start).max(1);
    cluster.carbon.get(row).map_or(NEVER, |next| next.timestamp_ms - start)
}

fn settle(battery: &mut BatteryState, now: i64, charging_w: f64) {
    let dt = (now - battery.since_ms) as f64;
    battery.since_ms = now;
    match battery.mode {
        BatteryMode::Idle => {}
        BatteryMode::Charging => {
            battery.charge_j += charging_w * (dt / 1000.0);
            battery.drawn_j += charging_w * dt * 1e-3;
        }
        BatteryMode::Discharging => {
            battery.charge_j -= battery.output_w * (dt / 1000.0);
            battery.delivered_j += battery.output_w * dt * 1e-3;
        }
    }
}

fn decide(policy: &BatteryPolicy, battery: &BatteryState, intensity: f64, full: bool, empty: bool) -> BatteryMode {
    let (dirty, clean) = match *policy {
        BatteryPolicy::Single { carbon_threshold } => (intensity >= carbon_threshold, intensity < carbon_threshold),
        BatteryPolicy::Double { lower_threshold, upper_threshold } => {
            (intensity > upper_threshold, intensity < lower_threshold)
        }
        BatteryPolicy::RunningMean { .. } => {
            let mean = mean(&battery.window);
            (intensity >= mean, intensity < mean)
        }
        BatteryPolicy::RunningMeanPlus { .. } => {
            let mean = mean(&battery.window);
            (intensity >= mean, intensity < mean && intensity >= battery.previous_g_per_kwh)
        }
        BatteryPolicy::RunningMedian { .. } => {
            let median = quantile(&battery.window, 0.5);
            (intensity >= median, intensity < median)
        }
        BatteryPolicy::RunningQuartiles { .. } => {
            (intensity > quantile(&battery.window, 0.75), intensity < quantile(&battery.window, 0.25))
        }
    };
    if dirty && !empty {
        BatteryMode::Discharging
    } else if clean && !full {
        BatteryMode::Charging
    } else {
        BatteryMode::Idle
    }
}

fn mean(window: &VecDeque<f64>) -> f64 {
    window.iter().sum::<f64>() / window.len() as f64
}

/// Linear interpolation between order statistics.
fn quantile(window: &VecDeque<f64>, q: f64) -> f64 {
    let mut values: Vec<f64> = window.iter().copied().collect();
    values.sort_by(f64::total_cmp);
    let at = q * (values.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    values[low] + (values[high] - values[low]) * (at - low as f64)
}
