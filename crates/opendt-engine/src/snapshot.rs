//! Snapshots: the whole simulation as bytes, and back.
//!
//! Layout: the magic `OPENDT`, the format version (u16, little-endian), the BLAKE3 hash of what follows, then a postcard record (serde's little-endian wire
//! format) of the model, the state and the workloads, each named by the BLAKE3 hash of its record. A snapshot without its
//! workloads holds only the hashes: the caller keeps each workload once and gives it back on restore.

use crate::error::EngineError;
use crate::model::Model;
use crate::queue::HostQueue;
use crate::sim::{Chunk, Scratch, Simulation};
use crate::state::State;
use crate::workload::Workload;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const MAGIC: &[u8; 6] = b"OPENDT";

/// Version of the layout; a snapshot of another version is refused.
pub const SNAPSHOT_VERSION: u16 = 5;

/// Hash of a workload.
pub type Hash = [u8; 32];

#[derive(Serialize, Deserialize)]
struct Record {
    model: Model,
    state: State,
    calendar: Vec<i64>,
    hashes: Vec<Hash>,
    workloads: Option<Vec<Workload>>,
}

#[derive(Serialize)]
struct RecordRef<'a> {
    model: &'a Model,
    state: &'a State,
    calendar: Vec<i64>,
    hashes: Vec<Hash>,
    workloads: Option<Vec<&'a Workload>>,
}

fn damaged(found: impl Into<String>, expected: impl Into<String>) -> EngineError {
    EngineError::Snapshot { found: found.into(), expected: expected.into() }
}

/// Hash of a workload's record.
///
/// # Errors
/// Never in practice: the record is plain data.
pub fn hash_workload(workload: &Workload) -> Result<Hash, EngineError> {
    let bytes = postcard::to_stdvec(workload).map_err(|e| damaged(e.to_string(), "a workload that can be written"))?;
    Ok(*blake3::hash(&bytes).as_bytes())
}

fn hash_of(chunk: &Chunk) -> Result<Hash, EngineError> {
    if let Some(hash) = chunk.hash.get() {
        return Ok(*hash);
    }
    let hash = hash_workload(&chunk.data)?;
    Ok(*chunk.hash.get_or_init(|| hash))
}

impl Simulation {
    /// The simulation as bytes; without `workloads` only their hashes are kept.
    ///
    /// # Errors
    /// Never in practice: everything is plain data.
    pub fn snapshot(&self, workloads: bool) -> Result<Vec<u8>, EngineError> {
        let hashes = self.chunks.iter().map(hash_of).collect::<Result<_, _>>()?;
        let record = RecordRef {
            model: &self.model,
            state: &self.s,
            calendar: (0..self.s.hosts.len()).map(|host| self.s.calendar.time_of(host)).collect(),
            hashes,
            workloads: workloads.then(|| self.chunks.iter().map(|chunk| &*chunk.data).collect()),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        let start = bytes.len() + size_of::<Hash>();
        bytes.resize(start, 0);
        let mut bytes =
            postcard::to_extend(&record, bytes).map_err(|e| damaged(e.to_string(), "a state that can be written"))?;
        let hash = *blake3::hash(&bytes[start..]).as_bytes();
        bytes[start - hash.len()..start].copy_from_slice(&hash);
        Ok(bytes)
    }

    /// The simulation that `snapshot` wrote; `known` supplies workloads that it left out.
    ///
    /// # Errors
    /// When the bytes are not a snapshot of this version, are damaged, or name a workload that is not known.
    pub fn restore(bytes: &[u8], known: &[Arc<Workload>]) -> Result<Self, EngineError> {
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| {
            damaged(format!("{} bytes that are something else", bytes.len()), "a snapshot made by OpenDT")
        })?;
        let (version, body) =
            body.split_first_chunk::<2>().ok_or_else(|| damaged("an end after the name", "a version"))?;
        let version = u16::from_le_bytes(*version);
        if version != SNAPSHOT_VERSION {
            return Err(damaged(
                format!("format {version}"),
                format!("format {SNAPSHOT_VERSION}; make the snapshot anew"),
            ));
        }
        let (hash, body) = body
            .split_first_chunk::<{ size_of::<Hash>() }>()
            .ok_or_else(|| damaged("an end after the version", "a checksum"))?;
        if blake3::hash(body).as_bytes() != hash {
            return Err(damaged(
                format!("{} bytes that are damaged: their checksum differs", bytes.len()),
                "a whole, unchanged snapshot; restore an earlier one",
            ));
        }
        let record: Record = postcard::from_bytes(body).map_err(|e| damaged(e.to_string(), "an undamaged snapshot"))?;
        let chunks = match record.workloads {
            Some(workloads) => workloads.into_iter().map(Arc::new).collect(),
            None => find_workloads(&record.hashes, known)?,
        };
        let mut state = record.state;
        state.calendar = HostQueue::new(state.hosts.len());
        for (host, &time) in record.calendar.iter().enumerate() {
            state.calendar.set(host, time);
        }
        Ok(Simulation {
            model: Arc::new(record.model),
            chunks: chunks.into_iter().map(Chunk::new).collect(),
            s: state,
            scratch: Scratch::default(),
        })
    }
}

/// Records that postcard cannot read back, because their enums are told apart by a field, as JSON text within it.
pub(crate) mod as_json {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(value).map_err(S::Error::custom)?.serialize(serializer)
    }

    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn find_workloads(hashes: &[Hash], known: &[Arc<Workload>]) -> Result<Vec<Arc<Workload>>, EngineError> {
    let mut by_hash = Vec::with_capacity(known.len());
    for workload in known {
        by_hash.push((hash_workload(workload)?, workload));
    }
    let find = |hash: &Hash| by_hash.iter().find(|(other, _)| other == hash).map(|(_, workload)| Arc::clone(workload));
    hashes
        .iter()
        .map(|hash| {
            let name = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            find(hash).ok_or_else(|| damaged(format!("workload {name}… left out"), "it among the known workloads"))
        })
        .collect()
}
