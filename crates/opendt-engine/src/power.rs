//! Power models compiled for speed: whole exponents become multiplications, curves become a search among few points.

use crate::spec::PowerModel;
use serde::{Deserialize, Serialize};

/// A power model ready to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Power {
    /// Always the same.
    Constant(f64),
    /// idle, range
    Linear(f64, f64),
    /// idle, range
    Sqrt(f64, f64),
    /// idle, range
    Square(f64, f64),
    /// idle, range
    Cubic(f64, f64),
    /// idle, range, whole exponent
    MseWhole(f64, f64, i32),
    /// idle, range, exponent
    Mse(f64, f64, f64),
    /// idle, half range, a, dvfs
    Asymptotic(f64, f64, f64, bool),
    /// utilisations, watts
    Curve(Vec<f64>, Vec<f64>),
}

impl From<&PowerModel> for Power {
    fn from(model: &PowerModel) -> Self {
        match *model {
            PowerModel::Constant { power_w } => Power::Constant(power_w),
            PowerModel::Linear { idle_w, max_w } => Power::Linear(idle_w, max_w - idle_w),
            PowerModel::Sqrt { idle_w, max_w } => Power::Sqrt(idle_w, max_w - idle_w),
            PowerModel::Square { idle_w, max_w } => Power::Square(idle_w, max_w - idle_w),
            PowerModel::Cubic { idle_w, max_w } => Power::Cubic(idle_w, max_w - idle_w),
            PowerModel::Mse { idle_w, max_w, calibration_factor: c } => {
                if c.fract() == 0.0 && (0.0..=16.0).contains(&c) {
                    Power::MseWhole(idle_w, max_w - idle_w, c as i32)
                } else {
                    Power::Mse(idle_w, max_w - idle_w, c)
                }
            }
            PowerModel::Asymptotic { idle_w, max_w, asym_util, dvfs } => {
                Power::Asymptotic(idle_w, (max_w - idle_w) / 2.0, asym_util, dvfs)
            }
            PowerModel::Curve { ref utilization, ref power_w } => Power::Curve(utilization.clone(), power_w.clone()),
        }
    }
}

impl Power {
    /// Power in W at utilisation `u` in [0, 1].
    #[inline]
    pub fn at(&self, u: f64) -> f64 {
        // The model of most traces first: a branch that is foretold, where a table of jumps is not.
        if let Power::MseWhole(idle, range, 4) = *self {
            let square = u * u;
            return idle + range * (2.0 * u - square * square);
        }
        match *self {
            Power::Constant(power) => power,
            Power::Linear(idle, range) => idle + range * u,
            Power::MseWhole(idle, range, c) => idle + range * (2.0 * u - whole_power(u, c)),
            Power::Sqrt(idle, range) => idle + range * u.sqrt(),
            Power::Square(idle, range) => idle + range * u * u,
            Power::Cubic(idle, range) => idle + range * u * u * u,
            Power::Mse(idle, range, c) => idle + range * (2.0 * u - u.powf(c)),
            Power::Asymptotic(idle, half, a, dvfs) => {
                let v = if dvfs { u * u * u } else { u };
                idle + half * (1.0 + v - exp_of_ratio(v, a))
            }
            Power::Curve(ref utilization, ref power_w) => interpolate(utilization, power_w, u),
        }
    }
}

/// exp(-v/a), whose limit for a = 0 is 1 at v = 0 and 0 elsewhere; the reference yields NaN there.
fn exp_of_ratio(v: f64, a: f64) -> f64 {
    if v == 0.0 {
        1.0
    } else if a == 0.0 {
        0.0
    } else {
        (-v / a).exp()
    }
}

#[inline]
fn whole_power(u: f64, exponent: i32) -> f64 {
    match exponent {
        1 => u,
        2 => u * u,
        3 => u * u * u,
        4 => {
            let square = u * u;
            square * square
        }
        n => u.powi(n),
    }
}

fn interpolate(x: &[f64], y: &[f64], at: f64) -> f64 {
    let right = x.partition_point(|&v| v < at).clamp(1, x.len() - 1);
    let (x0, x1, y0, y1) = (x[right - 1], x[right], y[right - 1], y[right]);
    y0 + (y1 - y0) * ((at - x0) / (x1 - x0)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(model: PowerModel, u: f64) -> f64 {
        Power::from(&model).at(u)
    }

    #[test]
    fn values_of_the_reference() {
        let mse = |c| PowerModel::Mse { idle_w: 25.0, max_w: 174.0, calibration_factor: c };
        assert!((at(mse(4.0), 0.794) - 202.39).abs() < 0.02);
        assert!((at(mse(1.4), 0.5) - at(mse(1.4 + 1e-12), 0.5)).abs() < 1e-6);
        assert_eq!(at(mse(1.0), 1.0), 174.0);
        let asym = |a, dvfs| PowerModel::Asymptotic { idle_w: 25.0, max_w: 174.0, asym_util: a, dvfs };
        let expected = 25.0 + 149.0 * (1.0 - (-1.0f64 / 0.3).exp() / 2.0);
        assert!((at(asym(0.3, true), 1.0) - expected).abs() < 1e-9);
    }

    #[test]
    fn asymptotic_without_bend_has_its_limit() {
        let model = PowerModel::Asymptotic { idle_w: 25.0, max_w: 175.0, asym_util: 0.0, dvfs: false };
        assert_eq!(at(model.clone(), 0.0), 25.0);
        assert_eq!(at(model, 0.5), 25.0 + 75.0 * 1.5);
    }

    #[test]
    fn curves_interpolate_and_clamp() {
        let model = PowerModel::Curve { utilization: vec![0.0, 0.5, 1.0], power_w: vec![10.0, 30.0, 40.0] };
        for (u, expected) in [(0.0, 10.0), (0.25, 20.0), (0.5, 30.0), (0.75, 35.0), (1.0, 40.0), (2.0, 40.0)] {
            assert_eq!(at(model.clone(), u), expected);
        }
    }
}
