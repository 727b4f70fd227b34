//! Each fault of a workload is one message with file, place, what was found, what was expected and the remedy.

mod common;

use std::fs;

use common::*;
use opendt_formats::{FormatError, read_workload};

fn error(tasks: &Columns, fragments: &Columns) -> FormatError {
    read_workload(workload(tasks, fragments).path()).unwrap_err()
}

/// Checks the parts of an error and that its sentence contains them.
#[track_caller]
fn check(error: &FormatError, file: &str, place: &str, found: &str, expected: &str) {
    assert!(error.file.ends_with(file), "{error}");
    assert_eq!(error.place, place, "{error}");
    assert!(error.found.contains(found), "{error}");
    assert!(error.expected.contains(expected), "{error}");
    assert!(!error.hint.is_empty(), "{error}");
    let sentence = error.to_string();
    for part in [file, place, found, expected, &error.hint] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(!sentence.contains('\n'), "{sentence}");
}

#[test]
fn bad_demand() {
    for (value, word) in [(-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e300, "1000000")] {
        let fragments = fragments().set("required double cpu_usage", f64s([1.0, 2.0, value, 3.0, 1.5]));
        check(&error(&tasks(), &fragments), "fragments.parquet", "row 2, column cpu_usage", word, "MHz from 0");
        let fragments = common::fragments().set("optional double gpu_usage", f64s([1.0, value, 0.0, 3.0, 1.5]));
        check(&error(&tasks(), &fragments), "fragments.parquet", "row 1, column gpu_usage", word, "MHz from 0");
    }
}

#[test]
fn bad_fragment_duration() {
    for (value, word) in [(-1, "-1"), (1 << 32, "4294967296")] {
        let fragments = fragments().set("required int64 duration", i64s([1, 1, 1, 1, value]));
        check(
            &error(&tasks(), &fragments),
            "fragments.parquet",
            "row 4, column duration",
            word,
            "ms from 0 to 4294967295",
        );
    }
    let fragments = fragments().set("required double duration", f64s([1.0, 0.5, 1.0, 1.0, 1.0]));
    check(&error(&tasks(), &fragments), "fragments.parquet", "row 1, column duration", "0.5", "whole number");
}

#[test]
fn zero_durations_are_fine() {
    let fragments = fragments().set("required int64 duration", i64s([0; 5]));
    assert!(read_workload(workload(&tasks(), &fragments).path()).is_ok());
}

#[test]
fn bad_task_values() {
    let cases = [
        ("required int32 cpu_count", i32s([1, -1, 1]), "row 1, column cpu_count", "-1", "cores, 0 or more"),
        ("required int64 mem_capacity", i64s([1, 1, -5]), "row 2, column mem_capacity", "-5", "kB from 0"),
        ("required double cpu_capacity", f64s([1.0, f64::NAN, 1.0]), "row 1, column cpu_capacity", "NaN", "MHz from 0"),
        ("required int64 duration", i64s([-7, 1, 1]), "row 0, column duration", "-7", "ms, 0 or more"),
        (
            "required int64 submission_time",
            i64s([1_666_000_000_000_000_000, 1, 1]),
            "row 0, column submission_time",
            "1666000000000000000",
            "before the year 10000",
        ),
        ("optional int32 gpu_count", i32s([1, 1, -2]), "row 2, column gpu_count", "-2", "cores, 0 or more"),
        ("optional double gpu_capacity", f64s([1.0, -2.0, 0.0]), "row 1, column gpu_capacity", "-2", "MHz from 0"),
    ];
    for (schema, values, place, found, expected) in cases {
        check(&error(&tasks().set(schema, values), &fragments()), "tasks.parquet", place, found, expected);
    }
}

#[test]
fn identifiers() {
    let twice = tasks().set("required int32 id", i32s([10, 11, 10]));
    check(
        &error(&twice, &fragments()),
        "tasks.parquet",
        "row 2, column id",
        "'10' again (first in row 0)",
        "each task once",
    );
    let unknown = fragments().set("required int32 id", i32s([10, 12, 12, 99, 10]));
    check(
        &error(&tasks(), &unknown),
        "fragments.parquet",
        "row 3, column id",
        "unknown task '99'",
        "a task of the tasks file",
    );
    let text = fragments().set("required binary id (STRING)", texts(["10", "12", "12", "11", "10"]));
    check(&error(&tasks(), &text), "fragments.parquet", "row 0, column id", "'10' (text)", "identifiers are numbers");
    let float = tasks().set("required double id", f64s([10.0, 11.0, 12.0]));
    check(&error(&float, &fragments()), "tasks.parquet", "column id", "type DOUBLE", "int32, int64 or text");
}

#[test]
fn nulls_in_required_columns() {
    let ids = Values::I32(vec![Some(10), Some(12), None, Some(11), Some(10)]);
    let fragments = fragments().set("optional int32 id", ids);
    check(&error(&tasks(), &fragments), "fragments.parquet", "row 2, column id", "null", "identifier of a task");
    let usage = Values::F64(vec![Some(1.0), Some(1.0), Some(1.0), None, Some(1.0)]);
    let fragments = common::fragments().set("optional double cpu_usage", usage);
    check(&error(&tasks(), &fragments), "fragments.parquet", "row 3, column cpu_usage", "null", "MHz");
    let counts = Values::I32(vec![Some(1), None, Some(1)]);
    let tasks = tasks().set("optional int32 cpu_count", counts);
    check(&error(&tasks, &common::fragments()), "tasks.parquet", "row 1, column cpu_count", "null", "cores");
}

#[test]
fn a_bad_value_behind_nulls_names_its_own_row() {
    let usage = Values::F64(vec![None, Some(1.0), None, Some(-3.0), Some(1.0)]);
    let fragments = fragments().set("optional double gpu_usage", usage);
    check(&error(&tasks(), &fragments), "fragments.parquet", "row 3, column gpu_usage", "-3", "MHz");
}

#[test]
fn missing_columns() {
    for name in ["id", "submission_time", "duration", "cpu_count", "cpu_capacity", "mem_capacity"] {
        let error = error(&tasks().without(name), &fragments());
        check(&error, "tasks.parquet", "", "only the columns", name);
    }
    for name in ["id", "duration", "cpu_usage"] {
        let error = error(&tasks(), &fragments().without(name));
        check(&error, "fragments.parquet", "", "only the columns", name);
    }
}

#[test]
fn wrong_types() {
    let wrong = tasks().set("required binary cpu_count (STRING)", texts(["1", "2", "3"]));
    check(&error(&wrong, &fragments()), "tasks.parquet", "column cpu_count", "BYTE_ARRAY", "numbers");
    let wrong = tasks().set("optional group duration", lists([&[1], &[2], &[3]]));
    check(&error(&wrong, &fragments()), "tasks.parquet", "column duration", "a list of INT32", "numbers");
    let wrong = tasks().set("required int32 deferrable", i32s([0, 1, 0]));
    check(&error(&wrong, &fragments()), "tasks.parquet", "column deferrable", "INT32", "true and false");
    let wrong = tasks().set("required int32 parents", i32s([0, 1, 0]));
    check(&error(&wrong, &fragments()), "tasks.parquet", "column parents", "INT32", "a list of identifiers");
    let wrong = fragments().set("required boolean cpu_usage", Values::Bool(vec![Some(true); 5]));
    check(&error(&tasks(), &wrong), "fragments.parquet", "column cpu_usage", "BOOLEAN", "numbers");
}

#[test]
fn dependencies() {
    let unknown = tasks().set("optional group parents", lists([&[], &[99], &[]]));
    check(
        &error(&unknown, &fragments()),
        "tasks.parquet",
        "row 1 (task '11'), column parents",
        "unknown task '99'",
        "tasks of this file",
    );
    let circle = tasks()
        .set("optional group parents", lists([&[11], &[12], &[]]))
        .set("optional group children", lists([&[12], &[], &[]]));
    check(
        &error(&circle, &fragments()),
        "tasks.parquet",
        "columns parents and children",
        "(10 waits for 11 waits for 12 waits for 10)",
        "no cycle",
    );
    let own = tasks().set("optional group parents", lists([&[10], &[], &[]]));
    check(&error(&own, &fragments()), "tasks.parquet", "columns parents and children", "(10 waits for 10)", "no cycle");
}

#[test]
fn nothing_to_simulate() {
    let none = fragments()
        .set("required int32 id", i32s([]))
        .set("required int64 duration", i64s([]))
        .set("required double cpu_usage", f64s([]));
    check(&error(&tasks(), &none), "fragments.parquet", "", "no fragments", "at least one task");
    let no_tasks = tasks()
        .set("required int32 id", i32s([]))
        .set("required int64 submission_time", i64s([]))
        .set("required int64 duration", i64s([]))
        .set("required int32 cpu_count", i32s([]))
        .set("required double cpu_capacity", f64s([]))
        .set("required int64 mem_capacity", i64s([]));
    check(&error(&no_tasks, &fragments()), "tasks.parquet", "", "no rows", "at least one task");
}

#[test]
fn files() {
    let dir = workload(&tasks(), &fragments());
    let path = dir.path().join("fragments.parquet");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check(
        &read_workload(dir.path()).unwrap_err(),
        "fragments.parquet",
        "",
        "not a whole Parquet file",
        "a Parquet file",
    );
    fs::write(&path, "id,duration\n1,2\n").unwrap();
    check(&read_workload(dir.path()).unwrap_err(), "fragments.parquet", "", "16 bytes that are not", "a Parquet file");
    fs::write(&path, "").unwrap();
    check(&read_workload(dir.path()).unwrap_err(), "fragments.parquet", "", "0 bytes that are not", "a Parquet file");
    fs::remove_file(&path).unwrap();
    check(&read_workload(dir.path()).unwrap_err(), "fragments.parquet", "", "no such file", "beside");
    fs::remove_file(dir.path().join("tasks.parquet")).unwrap();
    check(&read_workload(dir.path()).unwrap_err(), "", "", "neither tasks.parquet", "a workload folder");
    let nowhere = dir.path().join("nowhere");
    check(&read_workload(&nowhere).unwrap_err(), "nowhere", "", "no such folder", "a workload folder");
}

#[test]
fn damage_is_an_error_or_harmless_but_never_a_panic() {
    let dir = workload(&tasks(), &fragments());
    let path = dir.path().join("fragments.parquet");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= [0x01, 0x80, 0xff][at % 3];
        fs::write(&path, &damaged).unwrap();
        if let Ok(loaded) = read_workload(dir.path()) {
            let workload = loaded.workload;
            assert_eq!(workload.fragment_duration_ms.len(), *workload.fragment_offset.last().unwrap() as usize);
            assert!((0..workload.fragment_cpu_mhz.len()).all(|i| workload.fragment_cpu_mhz.get(i) >= 0.0));
        }
    }
}

#[test]
fn bad_slowdowns_and_pins() {
    for (value, word) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let tasks = tasks().set("optional double slowdown", f64s([1.0, value, 1.0]));
        check(&error(&tasks, &fragments()), "tasks.parquet", "row 1, column slowdown", word, "factor above 0");
    }
    let tasks = tasks().set("required int32 pinned", i32s([0, 1, 0]));
    check(&error(&tasks, &fragments()), "tasks.parquet", "column pinned", "INT32", "a column of text");
}

#[test]
fn bad_data_on_edges() {
    let parents = || tasks().set("optional group parents", lists([&[], &[10, 12], &[]]));
    let one_for_two = parents().set("optional group edge_mib", number_lists([&[], &[1.0], &[]]));
    check(
        &error(&one_for_two, &fragments()),
        "tasks.parquet",
        "row 1, column edge_mib",
        "1 numbers",
        "2, one for each parent",
    );
    for (value, word) in [(-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e300, "1000000")] {
        let tasks = parents().set("optional group edge_mib", number_lists([&[], &[1.0, value], &[]]));
        check(&error(&tasks, &fragments()), "tasks.parquet", "row 1, column edge_mib", word, "MiB from 0 to 1e15");
    }
    let whole = parents().set("optional group edge_mib", lists([&[], &[1, 2], &[]]));
    check(&error(&whole, &fragments()), "tasks.parquet", "column edge_mib", "a list of INT32", "a list of numbers");
    let flat = parents().set("optional double edge_mib", f64s([0.0, 1.0, 2.0]));
    check(&error(&flat, &fragments()), "tasks.parquet", "column edge_mib", "DOUBLE", "a list of numbers");
    let alone = tasks().set("optional group edge_mib", number_lists([&[], &[1.0], &[]]));
    check(&error(&alone, &fragments()), "tasks.parquet", "", "without a column parents", "one for each parent");
}
