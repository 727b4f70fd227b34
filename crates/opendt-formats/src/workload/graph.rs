//! Which task waits for which: parents and children columns as one compressed list, without cycles.

use std::path::Path;

use super::tasks::{IdLists, TaskRows};
use crate::error::{FormatError, Result};

/// Tasks named in the message about a cycle before it is cut.
const NAMED_IN_CYCLE: usize = 12;

/// Parents of each kept task, as indices into the order of kept tasks; all lists are empty without any.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    pub parent_offset: Vec<u32>,
    pub parents: Vec<u32>,
    /// Data sent over each edge of `parents`, MiB; empty when the file does not say it.
    pub edge_mib: Vec<f64>,
}

/// A task that waits for another, and the data it gets from it.
#[derive(Clone, Copy, Debug)]
struct Edge {
    child: u32,
    parent: u32,
    mib: f64,
}

impl Dependencies {
    /// The union of both columns among the kept tasks; parents and children without fragments are left out, since
    /// nothing has to be waited for.
    pub fn of(rows: &TaskRows, order: &[u32], path: &Path) -> Result<Self> {
        let mut index_of_row = vec![u32::MAX; rows.len()];
        for (index, &row) in order.iter().enumerate() {
            index_of_row[row as usize] = index as u32;
        }
        let mut edges: Vec<Edge> = Vec::new();
        let mut add = |child: u32, parent: u32, mib: f64| {
            let (child, parent) = (index_of_row[child as usize], index_of_row[parent as usize]);
            if child != u32::MAX && parent != u32::MAX {
                edges.push(Edge { child, parent, mib });
            }
        };
        if let Some(lists) = &rows.parents {
            let mib = |entry: usize| rows.edge_mib.as_ref().map_or(0.0, |data| data[entry]);
            each_pair(rows, lists, "parents", path, |row, parent, entry| add(row, parent, mib(entry)))?;
        }
        if let Some(lists) = &rows.children {
            each_pair(rows, lists, "children", path, |row, child, _| add(child, row, 0.0))?;
        }
        if edges.is_empty() {
            return Ok(Dependencies::default());
        }
        // An edge that is named twice, from both ends or in one list, counts once, with the most data that was named.
        edges.sort_unstable_by(|a, b| (a.child, a.parent).cmp(&(b.child, b.parent)).then(b.mib.total_cmp(&a.mib)));
        edges.dedup_by_key(|edge| (edge.child, edge.parent));
        let dependencies = Dependencies::compress(&edges, order.len(), rows.edge_mib.is_some());
        match dependencies.find_cycle() {
            None => Ok(dependencies),
            Some(cycle) => Err(cycle_error(rows, order, &cycle, path)),
        }
    }

    fn compress(edges: &[Edge], tasks: usize, with_data: bool) -> Self {
        let mut parent_offset = vec![0u32; tasks + 1];
        for edge in edges {
            parent_offset[edge.child as usize + 1] += 1;
        }
        for task in 0..tasks {
            parent_offset[task + 1] += parent_offset[task];
        }
        Dependencies {
            parent_offset,
            parents: edges.iter().map(|edge| edge.parent).collect(),
            edge_mib: if with_data { edges.iter().map(|edge| edge.mib).collect() } else { Vec::new() },
        }
    }

    fn parents_of(&self, task: u32) -> &[u32] {
        &self.parents[self.parent_offset[task as usize] as usize..self.parent_offset[task as usize + 1] as usize]
    }

    /// Walks the parents depth first without recursion: a parent that is still being visited closes a cycle.
    fn find_cycle(&self) -> Option<Vec<u32>> {
        const NEW: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let tasks = self.parent_offset.len() - 1;
        let mut state = vec![NEW; tasks];
        let mut path: Vec<(u32, usize)> = Vec::new(); // (task, next of its parents)
        for start in 0..tasks as u32 {
            if state[start as usize] != NEW {
                continue;
            }
            state[start as usize] = OPEN;
            path.push((start, 0));
            while let Some((task, next)) = path.last_mut() {
                let Some(&parent) = self.parents_of(*task).get(*next) else {
                    state[*task as usize] = DONE;
                    path.pop();
                    continue;
                };
                *next += 1;
                match state[parent as usize] {
                    NEW => {
                        state[parent as usize] = OPEN;
                        path.push((parent, 0));
                    }
                    OPEN => {
                        let from = path.iter().position(|step| step.0 == parent)?;
                        return Some(path[from..].iter().map(|step| step.0).collect());
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

/// Calls `pair` with the row of each list, the row that an entry of it names, and the entry.
fn each_pair(
    rows: &TaskRows,
    lists: &IdLists,
    column: &str,
    path: &Path,
    mut pair: impl FnMut(u32, u32, usize),
) -> Result<()> {
    for row in 0..rows.len() {
        for entry in lists.offset[row]..lists.offset[row + 1] {
            let Some(other) = rows.find(&lists.ids, entry) else {
                let found = format!("the unknown task '{}'", lists.ids.text(entry));
                return Err(FormatError::new(path, found, "tasks of this file")
                    .at(format!("row {row} (task '{}'), column {column}", rows.ids.text(row)))
                    .hint("Add the task or take it out of the list."));
            };
            pair(row as u32, other, entry);
        }
    }
    Ok(())
}

fn cycle_error(rows: &TaskRows, order: &[u32], cycle: &[u32], path: &Path) -> FormatError {
    let name = |index: u32| rows.ids.text(order[index as usize] as usize);
    let mut steps: Vec<String> = cycle.iter().take(NAMED_IN_CYCLE).map(|&task| name(task)).collect();
    if cycle.len() > NAMED_IN_CYCLE {
        steps.push(format!("({} more)", cycle.len() - NAMED_IN_CYCLE));
    }
    steps.push(name(cycle[0]));
    FormatError::new(
        path,
        format!("tasks that wait for each other in a circle ({})", steps.join(" waits for ")),
        "parents that form no cycle",
    )
    .at("columns parents and children")
    .hint("Remove one of these dependencies.")
}
