//! Traces beside the workload: carbon intensity, failures, measured power.

use std::path::Path;

use opendt_engine::spec::{CarbonPoint, FailureEvent};

use crate::error::{FormatError, Result};
use crate::kinds::Rule;
use crate::table::Table;

/// Milliseconds since the epoch at the start of the year 10000: whatever is later is a wrong unit.
pub(crate) const LATEST_MS: i64 = 253_402_300_800_000;

/// The rule for points in time, in ms since the epoch.
pub(crate) fn time_rule() -> Rule<i64, impl Fn(i64) -> bool> {
    Rule {
        null: None,
        allows: |ms| (-LATEST_MS..LATEST_MS).contains(&ms),
        expected: "a time in ms before the year 10000",
        hint: "Plain numbers are read as ms since 1970: annotate the column with its unit or convert it.",
    }
}

/// The rule for lengths of time, in ms.
pub(crate) fn length_rule() -> Rule<i64, impl Fn(i64) -> bool> {
    Rule {
        null: None,
        allows: |ms| (0..LATEST_MS).contains(&ms),
        expected: "a whole number of ms, 0 or more",
        hint: "Correct the value or drop the row.",
    }
}

/// Measured power: one entry a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PowerTrace {
    /// Time of each sample, ms since the first submission, increasing.
    pub timestamp_ms: Vec<i64>,
    /// Power, W.
    pub power_w: Vec<f64>,
}

/// Reads a carbon trace: `timestamp` (ms since the epoch or a timestamp type) and `carbon_intensity` (g CO2 per kWh).
///
/// The points are returned sorted by time.
///
/// # Errors
/// When the file cannot be read, has no rows, a value is missing, not finite or negative, or a time occurs twice.
pub fn read_carbon(path: &Path) -> Result<Vec<CarbonPoint>> {
    let table = open_filled(path, "at least one carbon intensity")?;
    let times = table.need(&["timestamp"])?.numbers(&time_rule())?;
    let values = table.need(&["carbon_intensity"])?.numbers(&Rule {
        null: None,
        allows: |value: f64| value.is_finite() && value >= 0.0,
        expected: "a finite number of g CO2 per kWh, 0 or more",
        hint: "Correct the value or drop the row.",
    })?;
    let mut points: Vec<CarbonPoint> = times
        .into_iter()
        .zip(values)
        .map(|(timestamp_ms, intensity_g_per_kwh)| CarbonPoint { timestamp_ms, intensity_g_per_kwh })
        .collect();
    points.sort_by_key(|point| point.timestamp_ms);
    if let Some(pair) = points.windows(2).find(|pair| pair[0].timestamp_ms == pair[1].timestamp_ms) {
        return Err(twice(&table, pair[0].timestamp_ms));
    }
    Ok(points)
}

/// Reads a failure trace: `failure_interval` and `failure_duration` in ms, `failure_intensity` as a share of the hosts.
///
/// # Errors
/// When the file cannot be read, has no rows, or a value is missing or out of range.
pub fn read_failures(path: &Path) -> Result<Vec<FailureEvent>> {
    let table = open_filled(path, "at least one failure")?;
    let intervals = table.need(&["failure_interval"])?.numbers(&length_rule())?;
    let durations = table.need(&["failure_duration"])?.numbers(&length_rule())?;
    let ratios = table.need(&["failure_intensity"])?.numbers(&Rule {
        null: None,
        allows: |value: f64| value > 0.0 && value <= 1.0,
        expected: "a share of the hosts above 0 and up to 1",
        hint: "Write percent as a fraction; drop rows that fail no host.",
    })?;
    let events = intervals.into_iter().zip(durations).zip(ratios);
    Ok(events
        .map(|((interval_ms, duration_ms), host_ratio)| FailureEvent { interval_ms, duration_ms, host_ratio })
        .collect())
}

/// Reads measured power: `timestamp` in ms since the first submission and `power_draw` in W, sorted by time.
///
/// # Errors
/// When the file cannot be read, has no rows, a value is missing, not finite or negative, or a time occurs twice.
pub fn read_power(path: &Path) -> Result<PowerTrace> {
    let table = open_filled(path, "at least one power sample")?;
    let times = table.need(&["timestamp"])?.numbers(&time_rule())?;
    let power = table.need(&["power_draw"])?.numbers(&Rule {
        null: None,
        allows: |value: f64| value.is_finite() && value >= 0.0,
        expected: "a finite number of W, 0 or more",
        hint: "Correct the value or drop the row.",
    })?;
    let mut samples: Vec<(i64, f64)> = times.into_iter().zip(power).collect();
    samples.sort_by_key(|sample| sample.0);
    if let Some(pair) = samples.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(twice(&table, pair[0].0));
    }
    let (timestamp_ms, power_w) = samples.into_iter().unzip();
    Ok(PowerTrace { timestamp_ms, power_w })
}

fn open_filled(path: &Path, expected: &str) -> Result<Table> {
    let table = Table::open(path)?;
    if table.rows == 0 {
        return Err(FormatError::new(path, "no rows", expected).hint("Check that this is the file you meant."));
    }
    Ok(table)
}

fn twice(table: &Table, time_ms: i64) -> FormatError {
    FormatError::new(&table.path, format!("the time {time_ms} ms in two rows"), "each time once")
        .at("column timestamp")
        .hint("Drop one of the rows.")
}
