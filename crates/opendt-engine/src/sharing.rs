//! How a supplier divides what it has among consumers that ask for more (SEMANTICS 4).

use crate::spec::Sharing;

/// Divides `supply` among `demand` (in order of arrival) and writes each share to `share`.
///
/// `capacity` is what the supplier could give at most, `rotation` the first slot of the round-robin.
/// A share may exceed the supply under `FixedShare`, as in the reference.
pub fn divide(sharing: Sharing, capacity: f64, supply: f64, rotation: u32, demand: &[f64], share: &mut [f64]) {
    let total: f64 = demand.iter().sum();
    match sharing {
        Sharing::EqualShare => share.fill(capacity / demand.len() as f64),
        Sharing::FixedShare { share_ratio } => share.fill(share_ratio * capacity),
        _ if total <= supply => share.copy_from_slice(demand),
        Sharing::MaxMinFairness => water_fill(supply, demand, share),
        Sharing::FirstFit => in_turn(supply, demand, share, 0),
        Sharing::BestEffort { .. } => in_turn(supply, demand, share, rotation as usize % demand.len()),
    }
}

/// What consumers that ask for `demand` in total make the supplier produce, as seen by its power model.
pub fn demanded(sharing: Sharing, capacity: f64, total: f64) -> f64 {
    match sharing {
        Sharing::EqualShare => capacity,
        Sharing::FixedShare { share_ratio } => share_ratio * capacity,
        _ => total,
    }
}

/// Max-min fairness: in rising order of demand each gets its demand or an equal part of what is left.
fn water_fill(supply: f64, demand: &[f64], share: &mut [f64]) {
    let mut order: Vec<usize> = (0..demand.len()).filter(|&i| demand[i] > 0.0).collect();
    order.sort_by(|&a, &b| demand[a].total_cmp(&demand[b]));
    share.fill(0.0);
    let mut left = supply;
    for (position, &i) in order.iter().enumerate() {
        share[i] = demand[i].min(left / (order.len() - position) as f64);
        left -= share[i];
    }
}

fn in_turn(supply: f64, demand: &[f64], share: &mut [f64], first: usize) {
    let mut left = supply;
    for step in 0..demand.len() {
        let i = (first + step) % demand.len();
        share[i] = demand[i].min(left);
        left -= share[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sharing: Sharing, rotation: u32) -> Vec<f64> {
        let demand = [1000.0, 2000.0, 3000.0];
        let mut share = [0.0; 3];
        divide(sharing, 4000.0, 4000.0, rotation, &demand, &mut share);
        share.to_vec()
    }

    #[test]
    fn overload_is_divided_as_the_reference_does() {
        assert_eq!(shares(Sharing::MaxMinFairness, 0), [1000.0, 1500.0, 1500.0]);
        assert_eq!(shares(Sharing::FirstFit, 0), [1000.0, 2000.0, 1000.0]);
        assert_eq!(shares(Sharing::EqualShare, 0), [4000.0 / 3.0; 3]);
        assert_eq!(shares(Sharing::FixedShare { share_ratio: 0.5 }, 0), [2000.0; 3]);
        assert_eq!(shares(Sharing::BestEffort { update_interval_ms: 1000 }, 2), [1000.0, 0.0, 3000.0]);
    }

    #[test]
    fn enough_supply_gives_each_its_demand() {
        let demand = [500.0, 0.0, 700.0];
        for sharing in [Sharing::MaxMinFairness, Sharing::FirstFit, Sharing::BestEffort { update_interval_ms: 1 }] {
            let mut share = [9.0; 3];
            divide(sharing, 4000.0, 4000.0, 1, &demand, &mut share);
            assert_eq!(share, demand);
        }
    }
}
