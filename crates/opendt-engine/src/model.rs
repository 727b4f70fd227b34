//! The topology as the kernel uses it: hosts in a flat list, each of a class, each class in a cluster.

use crate::error::EngineError;
use crate::power::Power;
use crate::spec::{Battery, CarbonPoint, GpuOverhead, HostGroup, Link, Options, Sharing, Topology};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is common to the hosts of a group. Never removed, so that indices stay valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostClass {
    /// The group as it is now; `count` is that of the definition.
    #[serde(with = "crate::snapshot::as_json")]
    pub group: HostGroup,
    /// Index of the cluster.
    pub cluster: u32,
    /// CPU power against utilisation.
    pub power: Power,
    /// CPU power at rest, W.
    pub idle_w: f64,
    /// Factor on the dynamic CPU power from changes of frequency and cores; 1 as defined.
    pub dynamic_factor: f64,
    /// Full CPU capacity, MHz.
    pub capacity_mhz: f64,
    /// Accelerators.
    pub gpu: Option<GpuClass>,
    /// Embodied carbon, g per ms.
    pub embodied_g_per_ms: f64,
}

/// The accelerators of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuClass {
    /// Devices.
    pub count: u32,
    /// Cores of all devices.
    pub core_count: u32,
    /// Speed of one core, MHz.
    pub core_speed_mhz: f64,
    /// Capacity of one device, MHz.
    pub device_mhz: f64,
    /// Memory of all devices, MiB.
    pub memory_mib: i64,
    /// Power of one device.
    pub power: Power,
    /// Loss by virtualisation.
    #[serde(with = "crate::snapshot::as_json")]
    pub overhead: GpuOverhead,
    /// How tasks share.
    #[serde(with = "crate::snapshot::as_json")]
    pub sharing: Sharing,
}

/// A cluster without its hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterModel {
    /// Name.
    pub name: String,
    /// Name of the power source.
    pub source_name: String,
    /// Cap of the source, W.
    pub max_power_w: Option<f64>,
    /// Carbon intensities, sorted by time.
    pub carbon: Vec<CarbonPoint>,
    /// Battery.
    #[serde(with = "crate::snapshot::as_json")]
    pub battery: Option<Battery>,
}

/// Topology and options, shared by forks until one of them changes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Host classes.
    pub classes: Vec<HostClass>,
    /// Clusters.
    pub clusters: Vec<ClusterModel>,
    /// Links between clusters.
    pub links: Vec<Link>,
    /// Options.
    #[serde(with = "crate::snapshot::as_json")]
    pub options: Options,
    /// Hosts made so far of each name.
    names: BTreeMap<String, u32>,
}

impl HostClass {
    /// Compiles a group.
    pub fn new(group: &HostGroup, cluster: u32, place: &str) -> Result<Self, EngineError> {
        check_group(group, place)?;
        let power = Power::from(&group.power_model);
        let gpu = group.gpu.as_ref().map(|gpu| GpuClass {
            count: gpu.count,
            core_count: gpu.core_count * gpu.count,
            core_speed_mhz: gpu.core_speed_mhz,
            device_mhz: f64::from(gpu.core_count) * gpu.core_speed_mhz,
            memory_mib: gpu.memory_mib.map_or(i64::MAX, |mib| mib.saturating_mul(i64::from(gpu.count))),
            power: Power::from(&gpu.power_model),
            overhead: gpu.overhead,
            sharing: gpu.sharing,
        });
        const MS_PER_YEAR: f64 = 365.0 * 24.0 * 3600.0 * 1000.0;
        Ok(HostClass {
            cluster,
            idle_w: power.at(0.0),
            power,
            dynamic_factor: 1.0,
            capacity_mhz: f64::from(group.core_count) * group.core_speed_mhz,
            gpu,
            embodied_g_per_ms: group.embodied_carbon_kg * 1000.0 / (group.lifetime_years * MS_PER_YEAR),
            group: group.clone(),
        })
    }

    /// CPU power in W at utilisation `u`, with `factor` on its dynamic part.
    #[inline]
    pub fn cpu_power_w(&self, u: f64, factor: f64) -> f64 {
        let power = self.power.at(u);
        if factor == 1.0 { power } else { self.idle_w + (power - self.idle_w) * factor }
    }

    /// Power of the host at rest, W.
    pub fn rest_w(&self) -> f64 {
        self.idle_w + self.gpu.as_ref().map_or(0.0, |gpu| f64::from(gpu.count) * gpu.power.at(0.0))
    }
}

fn check_group(group: &HostGroup, place: &str) -> Result<(), EngineError> {
    let positive = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(EngineError::invalid(format!("{place}.{name}"), value.to_string(), "a positive number"))
        }
    };
    positive("core_count", f64::from(group.core_count))?;
    positive("core_speed_mhz", group.core_speed_mhz)?;
    positive("lifetime_years", group.lifetime_years)?;
    if group.memory_mib < 0 {
        let found = group.memory_mib.to_string();
        return Err(EngineError::invalid(format!("{place}.memory_mib"), found, "zero or more"));
    }
    check_power(&group.power_model, &format!("{place}.power_model"))?;
    if let Some(gpu) = &group.gpu {
        positive("gpu.count", f64::from(gpu.count))?;
        positive("gpu.core_count", f64::from(gpu.core_count))?;
        positive("gpu.core_speed_mhz", gpu.core_speed_mhz)?;
        check_power(&gpu.power_model, &format!("{place}.gpu.power_model"))?;
    }
    Ok(())
}

/// Checks that a model gives finite power at every utilisation from 0 to 1.
pub fn check_power(model: &crate::spec::PowerModel, place: &str) -> Result<(), EngineError> {
    if let crate::spec::PowerModel::Curve { utilization, power_w } = model {
        let rising = utilization.windows(2).all(|w| w[0] < w[1]);
        let spans = utilization.first() == Some(&0.0) && utilization.last() == Some(&1.0);
        if utilization.len() != power_w.len() || !rising || !spans {
            return Err(EngineError::invalid(
                place,
                format!("{} utilisations and {} powers", utilization.len(), power_w.len()),
                "as many powers as utilisations, these rising from 0 to 1",
            ));
        }
    }
    let power = Power::from(model);
    for step in 0..=100 {
        let u = f64::from(step) / 100.0;
        let w = power.at(u);
        if !w.is_finite() || w < 0.0 {
            return Err(EngineError::invalid(
                place,
                format!("{w} W at utilisation {u}"),
                "finite power of at least 0 W",
            ));
        }
    }
    Ok(())
}

impl Model {
    /// Compiles a topology; also returns the class of each host and its number within its name.
    pub fn new(topology: &Topology, options: &Options) -> Result<(Self, Vec<(u32, u32)>), EngineError> {
        let mut model = Model {
            classes: Vec::new(),
            clusters: Vec::new(),
            links: topology.links.clone(),
            options: options.clone(),
            names: BTreeMap::new(),
        };
        if options.scheduling_quantum_ms < 1 {
            let found = options.scheduling_quantum_ms.to_string();
            return Err(EngineError::invalid("options.scheduling_quantum_ms", found, "at least 1 ms"));
        }
        let mut hosts = Vec::new();
        for (index, cluster) in topology.clusters.iter().enumerate() {
            let place = format!("clusters[{index}]");
            if model.clusters.iter().any(|c| c.name == cluster.name) {
                return Err(EngineError::invalid(format!("{place}.name"), cluster.name.clone(), "a name of its own"));
            }
            let mut carbon = cluster.power_source.carbon.clone();
            carbon.sort_by_key(|point| point.timestamp_ms);
            if let Some(battery) = &cluster.battery {
                check_battery(battery, &format!("{place}.battery"))?;
            }
            model.clusters.push(ClusterModel {
                name: cluster.name.clone(),
                source_name: cluster.power_source.name.clone(),
                max_power_w: cluster.power_source.max_power_w,
                carbon,
                battery: cluster.battery.clone(),
            });
            for (position, group) in cluster.hosts.iter().enumerate() {
                let class = model.add_class(group, index as u32, &format!("{place}.hosts[{position}]"))?;
                for _ in 0..group.count {
                    hosts.push((class, model.next_ordinal(&group.name)));
                }
            }
        }
        Ok((model, hosts))
    }

    /// Adds a class and returns its index.
    pub fn add_class(&mut self, group: &HostGroup, cluster: u32, place: &str) -> Result<u32, EngineError> {
        self.classes.push(HostClass::new(group, cluster, place)?);
        Ok(self.classes.len() as u32 - 1)
    }

    /// Number of the next host of this name.
    pub fn next_ordinal(&mut self, name: &str) -> u32 {
        if let Some(count) = self.names.get_mut(name) {
            *count += 1;
            *count - 1
        } else {
            self.names.insert(name.to_owned(), 1);
            0
        }
    }

    /// Delay of `mib` from one cluster to another, ms.
    pub fn transfer_ms(&self, from: u32, to: u32, mib: f64) -> i64 {
        let (a, b) = (&self.clusters[from as usize].name, &self.clusters[to as usize].name);
        let joins = |l: &&Link| (&l.from == a && &l.to == b) || (&l.from == b && &l.to == a);
        self.links.iter().find(joins).map_or(0, |link| {
            let seconds = link.bandwidth_mib_per_s.map_or(0.0, |bandwidth| mib / bandwidth);
            (link.latency_ms + seconds * 1000.0).round() as i64
        })
    }

    /// Index of a cluster.
    pub fn cluster_index(&self, name: &str) -> Result<u32, EngineError> {
        self.clusters.iter().position(|c| c.name == name).map(|i| i as u32).ok_or_else(|| EngineError::Unknown {
            kind: "cluster",
            name: name.to_owned(),
            known: self.clusters.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

fn check_battery(battery: &Battery, place: &str) -> Result<(), EngineError> {
    for (name, value, positive) in [
        ("capacity_kwh", battery.capacity_kwh, true),
        ("charging_w", battery.charging_w, true),
        ("initial_charge_kwh", battery.initial_charge_kwh, false),
    ] {
        if !value.is_finite() || value < 0.0 || (positive && value == 0.0) {
            return Err(EngineError::invalid(format!("{place}.{name}"), value.to_string(), "a positive number"));
        }
    }
    Ok(())
}

/// Name of a host: the group's, then with `-0`, `-1`, … from the second on.
pub fn host_name(base: &str, ordinal: u32) -> String {
    if ordinal == 0 { base.to_owned() } else { format!("{base}-{}", ordinal - 1) }
}
