//! What a simulation is made of, as data: topology, policies and options.
//!
//! Every type here is plain, serialisable and free of behaviour; names carry their units. The Python models mirror these
//! records field by field and cross the border as JSON.

use serde::{Deserialize, Serialize};

/// Clusters of hosts and the network between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Pools of hosts, each behind one power source.
    pub clusters: Vec<Cluster>,
    /// Network links between clusters; absent pairs transfer without delay.
    #[serde(default)]
    pub links: Vec<Link>,
}

/// A pool of hosts behind one power source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Unique name.
    pub name: String,
    /// Host groups in definition order, which breaks ties of the scheduler.
    pub hosts: Vec<HostGroup>,
    /// Where the cluster's power comes from.
    #[serde(default)]
    pub power_source: PowerSource,
    /// Optional battery between the source and the hosts.
    #[serde(default)]
    pub battery: Option<Battery>,
}

/// `count` equal hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostGroup {
    /// Name of the class; hosts are named `name`, `name-0`, `name-1`, …
    pub name: String,
    /// Number of equal hosts.
    pub count: u32,
    /// Cores of one host, all its CPUs together.
    pub core_count: u32,
    /// Speed of one core in MHz.
    pub core_speed_mhz: f64,
    /// Memory in MiB.
    pub memory_mib: i64,
    /// Instruction set, for exec formats.
    #[serde(default)]
    pub arch: Option<String>,
    /// Power against CPU utilisation.
    #[serde(default)]
    pub power_model: PowerModel,
    /// How tasks share the CPU when they ask for more than it has.
    #[serde(default)]
    pub cpu_sharing: Sharing,
    /// Accelerators, all alike.
    #[serde(default)]
    pub gpu: Option<Gpu>,
    /// Exponent k: at frequency ratio r the dynamic power scales by r^k.
    #[serde(default = "default_frequency_exponent")]
    pub frequency_exponent: f64,
    /// Embodied carbon of a host in kg CO2.
    #[serde(default = "default_embodied_carbon_kg")]
    pub embodied_carbon_kg: f64,
    /// Years over which the embodied carbon is written off.
    #[serde(default = "default_lifetime_years")]
    pub lifetime_years: f64,
}

fn default_frequency_exponent() -> f64 {
    2.0
}
fn default_embodied_carbon_kg() -> f64 {
    1000.0
}
fn default_lifetime_years() -> f64 {
    5.0
}

/// Accelerators of one host: `count` equal devices pooled behind one distributor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Devices per host.
    pub count: u32,
    /// Cores of one device.
    pub core_count: u32,
    /// Speed of one core in MHz.
    pub core_speed_mhz: f64,
    /// Memory of one device in MiB; absent means unlimited.
    #[serde(default)]
    pub memory_mib: Option<i64>,
    /// What virtualisation takes away.
    #[serde(default)]
    pub overhead: GpuOverhead,
    /// Power of one device against its utilisation.
    #[serde(default)]
    pub power_model: PowerModel,
    /// How tasks share the devices.
    #[serde(default)]
    pub sharing: Sharing,
}

/// Share of a GPU's supply lost to virtualisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum GpuOverhead {
    /// Nothing is lost.
    #[default]
    None,
    /// A constant ratio is lost.
    Constant {
        /// Lost share, 0 to 1.
        ratio: f64,
    },
    /// The supply is divided by the number of tasks on the host's devices.
    ShareBased,
}

/// Power in watts as a function of utilisation u in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PowerModel {
    /// `power_w`, whatever the load.
    Constant {
        /// Power in W.
        power_w: f64,
    },
    /// idle + (max - idle) u
    Linear {
        /// Power in W at u = 0.
        idle_w: f64,
        /// Power in W at u = 1.
        max_w: f64,
    },
    /// idle + (max - idle) sqrt(u)
    Sqrt {
        /// Power in W at u = 0.
        idle_w: f64,
        /// Power in W at u = 1.
        max_w: f64,
    },
    /// idle + (max - idle) u^2
    Square {
        /// Power in W at u = 0.
        idle_w: f64,
        /// Power in W at u = 1.
        max_w: f64,
    },
    /// idle + (max - idle) u^3
    Cubic {
        /// Power in W at u = 0.
        idle_w: f64,
        /// Power in W at u = 1.
        max_w: f64,
    },
    /// idle + (max - idle) (2u - u^c); exceeds max for c > 1.
    Mse {
        /// Power in W at u = 0.
        idle_w: f64,
        /// Power in W at u = 1.
        max_w: f64,
        /// Exponent c.
        calibration_factor: f64,
    },
    /// idle + (max - idle)/2 (1 + v - exp(-v/a)), v = u^3 with DVFS, else u. a = 0 is its limit: exp(-v/a) is 1 at v = 0, else 0.
    Asymptotic {
        /// Power in W at u = 0.
        idle_w: f64,
        /// Scale of the dynamic power in W.
        max_w: f64,
        /// Utilisation a at which the curve bends.
        asym_util: f64,
        /// Whether u enters as its cube.
        dvfs: bool,
    },
    /// Straight lines between measured points, as SPECpower publishes them.
    Curve {
        /// Utilisations, rising, from 0 to 1.
        utilization: Vec<f64>,
        /// Power in W at each of them.
        power_w: Vec<f64>,
    },
}

impl Default for PowerModel {
    fn default() -> Self {
        PowerModel::Linear { idle_w: 200.0, max_w: 400.0 }
    }
}

/// How a supplier that is asked for more than it has divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sharing {
    /// Water filling.
    #[default]
    MaxMinFairness,
    /// In order of arrival.
    FirstFit,
    /// The same for each, whatever it asks.
    EqualShare,
    /// A fixed share of the capacity for each.
    FixedShare {
        /// Share of the capacity, 0 to 1.
        share_ratio: f64,
    },
    /// Round-robin from a rotating slot.
    BestEffort {
        /// Interval of the rotation in ms.
        update_interval_ms: i64,
    },
}

/// Grid connection of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerSource {
    /// Name in the outputs.
    #[serde(default = "default_source_name")]
    pub name: String,
    /// Cap in W; absent means none.
    #[serde(default)]
    pub max_power_w: Option<f64>,
    /// Carbon intensity over time; empty means 0.
    #[serde(default)]
    pub carbon: Vec<CarbonPoint>,
}

fn default_source_name() -> String {
    "PowerSource".to_owned()
}

impl Default for PowerSource {
    fn default() -> Self {
        PowerSource { name: default_source_name(), max_power_w: None, carbon: Vec::new() }
    }
}

/// Intensity that holds from `timestamp_ms` to the next point; the first also covers all earlier time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarbonPoint {
    /// Start of validity, ms since the epoch (UTC).
    pub timestamp_ms: i64,
    /// g CO2 per kWh.
    pub intensity_g_per_kwh: f64,
}

/// Battery between a source and its cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Battery {
    /// Name in the outputs.
    pub name: String,
    /// Capacity in kWh.
    pub capacity_kwh: f64,
    /// Power drawn while charging, in W.
    pub charging_w: f64,
    /// Charge at time 0 in kWh.
    #[serde(default)]
    pub initial_charge_kwh: f64,
    /// When to charge and discharge.
    pub policy: BatteryPolicy,
    /// Embodied carbon in kg CO2.
    #[serde(default)]
    pub embodied_carbon_kg: f64,
    /// Years over which it is written off.
    #[serde(default)]
    pub lifetime_years: f64,
}

/// When a battery charges and discharges, from the carbon intensity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum BatteryPolicy {
    /// Discharge at or above the threshold, charge below it.
    Single {
        /// g CO2 per kWh.
        carbon_threshold: f64,
    },
    /// Discharge above the upper threshold, charge below the lower one.
    Double {
        /// g CO2 per kWh.
        lower_threshold: f64,
        /// g CO2 per kWh.
        upper_threshold: f64,
    },
    /// Threshold = mean of the last `window_size` intensities.
    RunningMean {
        /// First value of the window, g CO2 per kWh.
        starting_threshold: f64,
        /// Number of values.
        window_size: usize,
    },
    /// As `RunningMean`, but charging starts only while the intensity does not fall.
    RunningMeanPlus {
        /// First value of the window, g CO2 per kWh.
        starting_threshold: f64,
        /// Number of values.
        window_size: usize,
    },
    /// Threshold = median of the last `window_size` intensities.
    RunningMedian {
        /// First value of the window, g CO2 per kWh.
        starting_threshold: f64,
        /// Number of values.
        window_size: usize,
    },
    /// Discharge above the third quartile of the last intensities, charge below the first.
    RunningQuartiles {
        /// First value of the window, g CO2 per kWh.
        starting_threshold: f64,
        /// Number of values.
        window_size: usize,
    },
}

/// Network between two clusters, both ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// One end.
    pub from: String,
    /// The other end.
    pub to: String,
    /// One-way delay in ms.
    pub latency_ms: f64,
    /// Bandwidth in MiB/s; absent means unlimited.
    #[serde(default)]
    pub bandwidth_mib_per_s: Option<f64>,
}

/// Everything that is not topology or workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Seed of every random choice.
    pub seed: u64,
    /// How work relates to time.
    pub scaling_policy: ScalingPolicy,
    /// Which host a task gets.
    pub allocation: Allocation,
    /// The scheduler wakes at multiples of this, in ms.
    pub scheduling_quantum_ms: i64,
    /// A task that failed this often is terminated.
    pub max_failures: u32,
    /// Failures of hosts.
    pub failures: Option<FailureModel>,
    /// Snapshots of running tasks.
    pub checkpoint: Option<Checkpoint>,
    /// Absolute time of simulated time 0, ms since the epoch.
    pub start_epoch_ms: i64,
    /// Whether failed hosts keep drawing idle power, as the reference does.
    pub failed_hosts_draw_idle: bool,
    /// Whether a tick at the very end repeats the closing sample, as the reference does.
    pub repeat_closing_sample: bool,
    /// Whether task files count CPU time in whole seconds and leave out the part after a task's last sample, as the
    /// reference does; else in ms and completely.
    pub reference_task_times: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 0,
            scaling_policy: ScalingPolicy::NoDelay,
            allocation: Allocation::default(),
            scheduling_quantum_ms: 1000,
            max_failures: 10,
            failures: None,
            checkpoint: None,
            start_epoch_ms: 0,
            failed_hosts_draw_idle: true,
            repeat_closing_sample: true,
            reference_task_times: true,
        }
    }
}

/// How a fragment's demand relates to its duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalingPolicy {
    /// A fragment lasts its duration whatever it is supplied.
    #[default]
    NoDelay,
    /// A fragment lasts until its work (demand x duration) is done.
    Perfect,
}

/// Which host a task gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Allocation {
    /// Hosts that pass all filters, ordered by weighers; strict first-in first-out queue.
    Filter {
        /// All must pass.
        filters: Vec<Filter>,
        /// Summed after normalisation.
        weighers: Vec<Weigher>,
        /// Choose uniformly among the first n; 0 means all.
        subset_size: usize,
    },
    /// Fewest tasks first, skipping tasks that do not fit.
    Memorizing {
        /// All must pass.
        filters: Vec<Filter>,
    },
    /// Delays deferrable tasks to low-carbon times.
    TimeShift {
        /// All must pass.
        filters: Vec<Filter>,
        /// Summed after normalisation.
        weighers: Vec<Weigher>,
        /// Choose uniformly among the first n; 0 means all.
        subset_size: usize,
        /// Values in the running mean.
        window_size: usize,
        /// Use the coming trace rows instead of the past.
        forecast: bool,
        /// Quantile that is low for tasks under two hours.
        short_forecast_threshold: f64,
        /// Quantile that is low for longer tasks.
        long_forecast_threshold: f64,
        /// Coming trace rows looked at.
        forecast_size: usize,
        /// Whether the memorizing scheduler lies beneath.
        memorize: bool,
        /// Pauses running tasks in high-carbon times.
        task_stopper: Option<TaskStopper>,
    },
}

impl Default for Allocation {
    fn default() -> Self {
        Allocation::Filter {
            filters: vec![
                Filter::Compute,
                Filter::VCpu { allocation_ratio: 1.0 },
                Filter::Ram { allocation_ratio: 1.5 },
            ],
            weighers: vec![Weigher::Ram { multiplier: 1.0 }],
            subset_size: 1,
        }
    }
}

/// Pauses all running tasks while the intensity is above a quantile of its forecast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskStopper {
    /// Values in the running mean (without forecast).
    pub window_size: usize,
    /// Use the coming trace rows.
    pub forecast: bool,
    /// Quantile above which tasks are paused.
    pub forecast_threshold: f64,
    /// Coming trace rows looked at.
    pub forecast_size: usize,
}

/// A condition that a host must meet for a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Filter {
    /// The host is up.
    Compute,
    /// Enough free cores, counting each `allocation_ratio` times.
    VCpu {
        /// Overcommitment.
        allocation_ratio: f64,
    },
    /// Enough free memory, counting it `allocation_ratio` times.
    Ram {
        /// Overcommitment.
        allocation_ratio: f64,
    },
    /// Fewer tasks than `limit` on the host.
    InstanceCount {
        /// Limit.
        limit: u32,
    },
    /// MHz per core of the host at least those of the task.
    VCpuCapacity,
    /// Enough free GPU cores.
    VGpu {
        /// Overcommitment.
        allocation_ratio: f64,
    },
    /// MHz per GPU core of the host at least those of the task.
    VGpuCapacity,
    /// On the host of the named tasks (a task's `same_host` hint).
    SameHost,
    /// Not on the host of the named tasks (a task's `different_host` hint).
    DifferentHost,
}

/// A preference among hosts; larger is better after multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Weigher {
    /// Free memory.
    Ram {
        /// Multiplier.
        multiplier: f64,
    },
    /// Free memory per core.
    CoreRam {
        /// Multiplier.
        multiplier: f64,
    },
    /// Tasks on the host.
    InstanceCount {
        /// Multiplier.
        multiplier: f64,
    },
    /// MHz of the host minus MHz per core of the task.
    VCpuCapacity {
        /// Multiplier.
        multiplier: f64,
    },
    /// `allocation_ratio` minus provisioned cores.
    VCpu {
        /// Multiplier.
        multiplier: f64,
        /// Overcommitment.
        allocation_ratio: f64,
    },
    /// `allocation_ratio` minus provisioned GPU cores.
    VGpu {
        /// Multiplier.
        multiplier: f64,
        /// Overcommitment.
        allocation_ratio: f64,
    },
}

/// How hosts fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FailureModel {
    /// Recorded failures.
    Trace {
        /// In order.
        events: Vec<FailureEvent>,
        /// First event used.
        start_point: usize,
        /// Start over at the end.
        repeat: bool,
    },
    /// Drawn failures; times in hours.
    Custom {
        /// Time between the end of a failure and the next.
        interarrival_hours: Distribution,
        /// How long a failure lasts.
        duration_hours: Distribution,
        /// Share of the hosts that fail, clamped to [0, 1].
        host_ratio: Distribution,
    },
}

/// One recorded failure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureEvent {
    /// Wait since the end of the previous failure, ms.
    pub interval_ms: i64,
    /// Length, ms.
    pub duration_ms: i64,
    /// Share of the hosts that fail, (0, 1].
    pub host_ratio: f64,
}

/// A probability distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// Always `value`.
    Constant {
        /// Value.
        value: f64,
    },
    /// Exponential.
    Exponential {
        /// Mean.
        mean: f64,
    },
    /// Gamma.
    Gamma {
        /// Shape.
        shape: f64,
        /// Scale.
        scale: f64,
    },
    /// exp of a normal with mean `scale` and deviation `shape`.
    LogNormal {
        /// Mean of the logarithm.
        scale: f64,
        /// Deviation of the logarithm.
        shape: f64,
    },
    /// Normal.
    Normal {
        /// Mean.
        mean: f64,
        /// Deviation.
        std: f64,
    },
    /// Pareto.
    Pareto {
        /// Smallest value.
        scale: f64,
        /// Tail index.
        shape: f64,
    },
    /// Uniform.
    Uniform {
        /// Lower end.
        lower: f64,
        /// Upper end.
        upper: f64,
    },
    /// Weibull.
    Weibull {
        /// Shape.
        alpha: f64,
        /// Scale.
        beta: f64,
    },
}

/// Periodic snapshots of running tasks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Time to the first snapshot, ms.
    pub interval_ms: i64,
    /// Work that a snapshot adds, ms at the task's largest demand.
    pub duration_ms: i64,
    /// Factor on the interval after each snapshot.
    pub interval_scaling: f64,
}
