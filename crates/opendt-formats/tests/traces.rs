//! Carbon, failure and power traces: what is read and what is refused.

mod common;

use common::*;
use opendt_formats::{read_carbon, read_failures, read_power};

fn write(columns: &Columns) -> (TempDir, std::path::PathBuf) {
    let dir = TempDir::new();
    let path = dir.path().join("trace.parquet");
    columns.write(&path);
    (dir, path)
}

fn carbon() -> Columns {
    Columns::default()
        .set("required int64 timestamp (TIMESTAMP(MILLIS,false))", i64s([2_000, 1_000, 3_000]))
        .set("required double carbon_intensity", f64s([20.0, 10.5, 0.0]))
}

#[test]
fn carbon_is_sorted_by_time() {
    let (_dir, path) = write(&carbon());
    let points = read_carbon(&path).unwrap();
    let pairs: Vec<_> = points.iter().map(|point| (point.timestamp_ms, point.intensity_g_per_kwh)).collect();
    assert_eq!(pairs, [(1_000, 10.5), (2_000, 20.0), (3_000, 0.0)]);
}

#[test]
fn carbon_in_other_units_and_widths() {
    let columns = carbon()
        .set("optional int64 timestamp (TIMESTAMP(NANOS,true))", i64s([2_000_000_000, 1_000_000_000, 3_000_000_000]))
        .set("optional float carbon_intensity", f32s([20.0, 10.5, 0.0]));
    let (_dir, path) = write(&columns);
    let times: Vec<_> = read_carbon(&path).unwrap().iter().map(|point| point.timestamp_ms).collect();
    assert_eq!(times, [1_000, 2_000, 3_000]);
}

#[test]
fn carbon_errors() {
    let cases = [
        (carbon().without("timestamp"), "expected a column timestamp"),
        (
            carbon().set("required double carbon_intensity", f64s([1.0, -1.0, 1.0])),
            "row 1, column carbon_intensity: found -1",
        ),
        (
            carbon().set("required double carbon_intensity", f64s([1.0, 1.0, f64::NAN])),
            "row 2, column carbon_intensity: found NaN",
        ),
        (carbon().set("required int64 timestamp", i64s([5, 6, 5])), "the time 5 ms in two rows"),
        (
            Columns::default()
                .set("required int64 timestamp", i64s([]))
                .set("required double carbon_intensity", f64s([])),
            "found no rows",
        ),
    ];
    for (columns, message) in cases {
        let (_dir, path) = write(&columns);
        let error = read_carbon(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(read_carbon("missing.parquet".as_ref()).unwrap_err().to_string().contains("missing.parquet"));
}

fn failures() -> Columns {
    Columns::default()
        .set("required int64 failure_interval", i64s([300_000, 0]))
        .set("required int64 failure_duration", i64s([60_000, 1]))
        .set("required double failure_intensity", f64s([1.0, 0.25]))
}

#[test]
fn failures_keep_their_order() {
    let (_dir, path) = write(&failures());
    let events = read_failures(&path).unwrap();
    let rows: Vec<_> = events.iter().map(|event| (event.interval_ms, event.duration_ms, event.host_ratio)).collect();
    assert_eq!(rows, [(300_000, 60_000, 1.0), (0, 1, 0.25)]);
}

#[test]
fn failure_errors() {
    for value in [0.0, -0.5, 1.5, f64::NAN] {
        let (_dir, path) = write(&failures().set("required double failure_intensity", f64s([1.0, value])));
        let error = read_failures(&path).unwrap_err();
        assert_eq!(error.place, "row 1, column failure_intensity");
    }
    let (_dir, path) = write(&failures().set("required int64 failure_interval", i64s([-1, 1])));
    assert_eq!(read_failures(&path).unwrap_err().place, "row 0, column failure_interval");
}

#[test]
fn power_as_two_columns() {
    let columns = Columns::default()
        .set("optional double power_draw", f64s([22_008.0, 21_260.0]))
        .set("optional int64 timestamp", i64s([30_000, 60_000]));
    let (_dir, path) = write(&columns);
    let trace = read_power(&path).unwrap();
    assert_eq!((trace.timestamp_ms, trace.power_w), (vec![30_000, 60_000], vec![22_008.0, 21_260.0]));
    let (_dir, path) = write(&columns.set("optional double power_draw", f64s([1.0, f64::INFINITY])));
    assert_eq!(read_power(&path).unwrap_err().place, "row 1, column power_draw");
}
