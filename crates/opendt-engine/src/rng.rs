//! Randomness without state: a value is a function of (seed, purpose, entity, occurrence).
//!
//! Drawing by key instead of from a stream keeps common random numbers in step after one of two simulations was changed.
//! The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) applied to each word of the key.

use crate::spec::Distribution;
use serde::{Deserialize, Serialize};

/// What a random number is for; part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Hosts hit by a failure.
    Victims = 2,
    /// Time to the next failure.
    FailureInterval = 3,
    /// Length of a failure.
    FailureDuration = 4,
    /// Share of hosts hit.
    FailureHosts = 5,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A short stream of numbers under one key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Draw {
    key: u64,
    count: u64,
}

impl Draw {
    /// The stream of `(seed, purpose, entity, occurrence)`.
    pub fn new(seed: u64, purpose: Purpose, entity: u64, occurrence: u64) -> Self {
        let mut key = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        for word in [purpose as u64, entity, occurrence] {
            key = mix(key ^ mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        }
        Draw { key, count: 0 }
    }

    fn next_u64(&mut self) -> u64 {
        self.count += 1;
        mix(self.key.wrapping_add(self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform among `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    fn normal(&mut self) -> f64 {
        // Box-Muller; 1 - u keeps the logarithm finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn gamma(&mut self, shape: f64, scale: f64) -> f64 {
        // Marsaglia and Tsang (ACM TOMS 26, 2000), with their boost for shapes below one.
        if shape < 1.0 {
            let boost = (1.0 - self.uniform()).powf(1.0 / shape);
            return boost * self.gamma(shape + 1.0, scale);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return scale * d * v;
            }
        }
    }

    /// A value of the distribution.
    pub fn sample(&mut self, distribution: &Distribution) -> f64 {
        match *distribution {
            Distribution::Constant { value } => value,
            Distribution::Exponential { mean } => -mean * (1.0 - self.uniform()).ln(),
            Distribution::Gamma { shape, scale } => self.gamma(shape, scale),
            Distribution::LogNormal { scale, shape } => (scale + shape * self.normal()).exp(),
            Distribution::Normal { mean, std } => mean + std * self.normal(),
            Distribution::Pareto { scale, shape } => scale / (1.0 - self.uniform()).powf(1.0 / shape),
            Distribution::Uniform { lower, upper } => lower + (upper - lower) * self.uniform(),
            Distribution::Weibull { alpha, beta } => beta * (-(1.0 - self.uniform()).ln()).powf(1.0 / alpha),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(distribution: Distribution) -> f64 {
        let n = 20_000;
        (0..n).map(|i| Draw::new(7, Purpose::FailureInterval, 0, i).sample(&distribution)).sum::<f64>() / n as f64
    }

    #[test]
    fn the_same_key_gives_the_same_number() {
        let a = Draw::new(1, Purpose::Victims, 3, 4).uniform();
        assert_eq!(a, Draw::new(1, Purpose::Victims, 3, 4).uniform());
        assert_ne!(a, Draw::new(1, Purpose::Victims, 4, 3).uniform());
    }

    #[test]
    fn distributions_have_their_means() {
        for (distribution, expected) in [
            (Distribution::Constant { value: 3.0 }, 3.0),
            (Distribution::Exponential { mean: 2.0 }, 2.0),
            (Distribution::Gamma { shape: 0.5, scale: 4.0 }, 2.0),
            (Distribution::Gamma { shape: 3.0, scale: 2.0 }, 6.0),
            (Distribution::LogNormal { scale: 0.0, shape: 0.5 }, (0.125f64).exp()),
            (Distribution::Normal { mean: -1.0, std: 2.0 }, -1.0),
            (Distribution::Pareto { scale: 1.0, shape: 4.0 }, 4.0 / 3.0),
            (Distribution::Uniform { lower: 1.0, upper: 3.0 }, 2.0),
            (Distribution::Weibull { alpha: 1.0, beta: 5.0 }, 5.0),
        ] {
            let found = mean(distribution);
            assert!(
                (found - expected).abs() < 0.04 * expected.abs().max(1.0),
                "{distribution:?}: {found} vs {expected}"
            );
        }
    }

    #[test]
    fn below_covers_all_values() {
        let mut seen = [0u32; 5];
        for i in 0..5000 {
            seen[Draw::new(0, Purpose::Victims, 0, i).below(5)] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    }
}
