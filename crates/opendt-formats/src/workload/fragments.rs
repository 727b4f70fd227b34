//! The values of the fragments file, put where they belong while they are decoded.

use std::thread;

use opendt_engine::workload::Usage;

use super::tasks::capacity_rule;
use crate::error::Result;
use crate::kinds::Rule;
use crate::runs::IdRuns;
use crate::table::{Column, Table};

/// Durations and demands, grouped by task.
#[derive(Debug)]
pub(super) struct FragmentValues {
    pub duration_ms: Vec<u32>,
    pub cpu_mhz: Usage,
    pub gpu_mhz: Option<Usage>,
}

/// Where each run of rows of the file goes.
#[derive(Debug)]
pub(super) struct Borders {
    /// Borders of the tasks' fragments in the result.
    pub offsets: Vec<u32>,
    /// First place in the result and number of rows of each run, in file order.
    places: Vec<(u32, u32)>,
}

impl Borders {
    pub fn new(runs: &IdRuns, task_of_key: &[u32], order: &[u32], counts: &[u32]) -> Self {
        let mut offsets = Vec::with_capacity(order.len() + 1);
        let mut next = vec![0u32; counts.len()];
        let mut total = 0;
        for &row in order {
            offsets.push(total);
            next[row as usize] = total;
            total += counts[row as usize];
        }
        offsets.push(total);
        let place = |&(key, count): &(u32, u32)| {
            let start = &mut next[task_of_key[key as usize] as usize];
            let place = (*start, count);
            *start += count;
            place
        };
        Borders { offsets, places: runs.runs.iter().map(place).collect() }
    }

    fn total(&self) -> usize {
        self.offsets.last().map_or(0, |&total| total as usize)
    }

    fn placer(&self) -> Placer<'_> {
        Placer { places: &self.places, run: 0, done: 0 }
    }
}

/// Walks the runs as the rows of the file come in.
struct Placer<'a> {
    places: &'a [(u32, u32)],
    run: usize,
    /// Rows of the current run that are already placed.
    done: u32,
}

impl Placer<'_> {
    /// Calls `copy` with each piece of `values` and the place in the result where it begins.
    fn place<T>(&mut self, mut values: &[T], mut copy: impl FnMut(usize, &[T])) {
        while !values.is_empty() && self.run < self.places.len() {
            let (start, count) = self.places[self.run];
            let rows = values.len().min((count - self.done) as usize);
            let (piece, rest) = values.split_at(rows);
            copy((start + self.done) as usize, piece);
            values = rest;
            self.done += rows as u32;
            if self.done == count {
                self.run += 1;
                self.done = 0;
            }
        }
    }
}

/// Decodes durations and demands on two threads.
pub(super) fn read_fragment_values(table: &Table, borders: &Borders) -> Result<FragmentValues> {
    let duration = table.need(&["duration"])?;
    let cpu = table.need(&["cpu_usage", "cpuUsage"])?;
    let gpu = table.find(&["gpu_usage"]);
    let (duration_ms, usage) = thread::scope(|scope| {
        let duration_ms = scope.spawn(|| read_durations(&duration, borders));
        let usage = read_usage(&cpu, borders, None)
            .and_then(|cpu| Ok((cpu, gpu.map(|gpu| read_usage(&gpu, borders, Some(0.0))).transpose()?)));
        (duration_ms.join(), usage)
    });
    let duration_ms = duration_ms.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let (cpu_mhz, gpu_mhz) = usage?;
    Ok(FragmentValues { duration_ms, cpu_mhz, gpu_mhz: gpu_mhz.filter(|usage| !is_zero(usage)) })
}

fn is_zero(usage: &Usage) -> bool {
    match usage {
        Usage::F32(values) => values.iter().all(|&mhz| mhz == 0.0),
        Usage::F64(values) => values.iter().all(|&mhz| mhz == 0.0),
    }
}

fn read_durations(column: &Column<'_>, borders: &Borders) -> Result<Vec<u32>> {
    let rule = Rule {
        null: None,
        allows: |_: u32| true,
        expected: "a whole number of ms from 0 to 4294967295 (49 days)",
        hint: "Correct the value, or split a longer fragment into several.",
    };
    let mut placed = vec![0u32; borders.total()];
    let mut placer = borders.placer();
    column.scan(&rule, |_, values| {
        placer.place(values, |start, piece| placed[start..start + piece.len()].copy_from_slice(piece));
        Ok(())
    })?;
    Ok(placed)
}

/// Single precision as long as it is exact; the first value that is not turns all into double precision.
fn read_usage(column: &Column<'_>, borders: &Borders, null: Option<f64>) -> Result<Usage> {
    let mut narrow = vec![0f32; borders.total()];
    let mut wide: Vec<f64> = Vec::new();
    let mut placer = borders.placer();
    column.scan(&capacity_rule(null), |_, values| {
        if wide.is_empty() && !values.iter().all(|&mhz| f64::from(mhz as f32) == mhz) {
            wide = std::mem::take(&mut narrow).into_iter().map(f64::from).collect();
        }
        placer.place(values, |start, piece| {
            if wide.is_empty() {
                for (place, &mhz) in narrow[start..start + piece.len()].iter_mut().zip(piece) {
                    *place = mhz as f32;
                }
            } else {
                wide[start..start + piece.len()].copy_from_slice(piece);
            }
        });
        Ok(())
    })?;
    Ok(if wide.is_empty() { Usage::F32(narrow) } else { Usage::F64(wide) })
}
