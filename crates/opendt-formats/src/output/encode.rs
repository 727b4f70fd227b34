//! Encodings of Parquet pages: runs and bit-packed groups, and dictionaries of whole numbers that are built on the way.

/// Repetitions from which a run is smaller and faster than packed values.
const SHORTEST_RUN: usize = 16;

/// Distinct values up to which a column of whole numbers keeps a dictionary: its table stays in the second-level cache.
const MOST_ENTRIES: usize = 1 << 12;

/// Slots of the hash table; twice the entries, so that probes are short.
const SLOTS: usize = MOST_ENTRIES * 2;

/// Bits that numbers from 0 to `largest` need.
pub(super) fn width_of(largest: u32) -> u8 {
    (u32::BITS - largest.leading_zeros()) as u8
}

/// Appends `codes`, `width` bits each, as Parquet's hybrid of runs and bit-packed groups.
pub(super) fn encode_hybrid(codes: &[u32], width: u8, out: &mut Vec<u8>) {
    if width == 0 {
        // Nothing to tell apart: one run, of no bits.
        put_varint((codes.len() as u64) << 1, out);
        return;
    }
    let (mut packed_from, mut at) = (0, 0);
    while at < codes.len() {
        let code = codes[at];
        let end = codes[at..].iter().position(|&other| other != code).map_or(codes.len(), |length| at + length);
        // Packed values come in groups of eight; the run lends what its predecessors lack.
        let lent = (8 - (at - packed_from) % 8) % 8;
        if end - at >= lent + SHORTEST_RUN {
            pack(&codes[packed_from..at + lent], width, out);
            put_varint(((end - at - lent) as u64) << 1, out);
            out.extend(&code.to_le_bytes()[..usize::from(width).div_ceil(8)]);
            packed_from = end;
        }
        at = end;
    }
    pack(&codes[packed_from..], width, out);
}

/// Appends `count` times the same code.
pub(super) fn encode_run(code: u32, count: usize, width: u8, out: &mut Vec<u8>) {
    put_varint((count as u64) << 1, out);
    out.extend(&code.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

/// Appends one bit-packed run; the last group of eight is filled up with zeros.
fn pack(codes: &[u32], width: u8, out: &mut Vec<u8>) {
    if codes.is_empty() {
        return;
    }
    let groups = codes.len().div_ceil(8);
    put_varint((groups as u64) << 1 | 1, out);
    let end = out.len() + groups * usize::from(width);
    let (mut bits, mut held) = (0u64, 0u32);
    for &code in codes {
        bits |= u64::from(code) << held;
        held += u32::from(width);
        if held >= 32 {
            out.extend((bits as u32).to_le_bytes());
            bits >>= 32;
            held -= 32;
        }
    }
    out.extend(&bits.to_le_bytes()[..held.div_ceil(8) as usize]);
    out.resize(end, 0);
}

fn put_varint(value: u64, out: &mut Vec<u8>) {
    out.extend(crate::hybrid::varint(value));
}

/// Distinct whole numbers in order of appearance, up to [`MOST_ENTRIES`].
#[derive(Debug)]
pub(super) struct IntDictionary {
    values: Vec<i64>,
    /// Code + 1 of the value in each slot; 0 is free.
    slots: Vec<u16>,
    full: bool,
}

impl IntDictionary {
    pub fn new() -> Self {
        IntDictionary { values: Vec::new(), slots: Vec::new(), full: false }
    }

    /// Forgets all values, for a new row group; a column that once had too many stays without a dictionary.
    pub fn restart(&mut self) {
        self.values.clear();
        self.slots.fill(0);
    }

    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// Codes of `values`; false when there are too many distinct ones, and then for the rest of the file.
    pub fn encode<T: Copy + Into<i64>>(&mut self, values: &[T], codes: &mut Vec<u32>) -> bool {
        codes.clear();
        if self.full {
            return false;
        }
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, 0);
        }
        codes.resize(values.len(), 0);
        let known = self.values.len();
        let mut last: Option<(i64, u32)> = None;
        for (code, &value) in codes.iter_mut().zip(values) {
            let value = value.into();
            *code = match last {
                Some((same, code)) if same == value => code,
                _ => match self.code_of(value) {
                    Some(code) => code,
                    None => {
                        self.full = true;
                        // Codes handed out in this call are unused: earlier pages need only the earlier values.
                        self.values.truncate(known);
                        return false;
                    }
                },
            };
            last = Some((value, *code));
        }
        true
    }

    fn code_of(&mut self, value: i64) -> Option<u32> {
        // Fibonacci hashing: the high bits of the product depend on all bits of the value.
        let mut slot = ((value as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.trailing_zeros())) as usize;
        loop {
            match self.slots[slot] {
                0 => {
                    if self.values.len() == MOST_ENTRIES {
                        return None;
                    }
                    self.values.push(value);
                    self.slots[slot] = self.values.len() as u16;
                    return Some(self.values.len() as u32 - 1);
                }
                code if self.values[usize::from(code) - 1] == value => return Some(u32::from(code) - 1),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_as_the_format_describes() {
        let mut out = Vec::new();
        encode_hybrid(&(0..8).collect::<Vec<_>>(), 3, &mut out);
        assert_eq!(out, [0b0000_0011, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
    }

    #[test]
    fn a_run_lends_to_the_group_before_it() {
        let codes: Vec<u32> = [1, 2, 3].into_iter().chain(std::iter::repeat_n(7, 40)).collect();
        let mut out = Vec::new();
        encode_hybrid(&codes, 3, &mut out);
        assert_eq!(out[0], 3, "one packed group");
        assert_eq!(out[4..], [35 << 1, 7], "a run of the remaining 35");
    }

    #[test]
    fn widths() {
        assert_eq!([0, 1, 2, 3, 255, 256].map(width_of), [0, 1, 2, 2, 8, 9]);
    }

    #[test]
    fn dictionary_gives_up_beyond_its_size() {
        let mut dictionary = IntDictionary::new();
        let mut codes = Vec::new();
        assert!(dictionary.encode(&[5i64, 5, -1], &mut codes));
        assert_eq!((codes.as_slice(), dictionary.values()), ([0, 0, 1].as_slice(), [5, -1].as_slice()));
        let many: Vec<i64> = (0..10_000).collect();
        assert!(!dictionary.encode(&many, &mut codes));
        assert_eq!(dictionary.values(), [5, -1], "what earlier pages refer to remains");
        assert!(!dictionary.encode(&[5i64], &mut codes));
    }
}
