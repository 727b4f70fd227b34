//! Parquet's hybrid of runs and bit-packed groups, read run by run.

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::errors::{ParquetError, Result as ParquetResult};

/// An error about a page that contradicts itself.
pub(crate) fn bad(what: &str) -> ParquetError {
    ParquetError::General(what.to_string())
}

/// Splits a data page of an unrepeated column into encoded levels (optional columns only) and values.
pub(crate) fn split_levels(page: &Page, max_level: i16) -> ParquetResult<(Option<Bytes>, Bytes)> {
    let short = || bad("a short page");
    match page {
        Page::DataPageV2 { buf, rep_levels_byte_len, def_levels_byte_len, .. } => {
            let start = *rep_levels_byte_len as usize;
            let middle = start + *def_levels_byte_len as usize;
            if middle > buf.len() {
                return Err(short());
            }
            Ok(((max_level > 0).then(|| buf.slice(start..middle)), buf.slice(middle..)))
        }
        Page::DataPage { buf, def_level_encoding, num_values, .. } if max_level > 0 => {
            if *def_level_encoding != Encoding::RLE {
                // Bit-packed levels (deprecated) have no length and no runs: one run header makes them our own form.
                let bytes = (*num_values as usize).div_ceil(8);
                let packed = buf.get(..bytes).ok_or_else(short)?;
                let mut levels = varint((bytes as u64) << 1 | 1);
                levels.extend(packed.iter().map(|byte| byte.reverse_bits()));
                return Ok((Some(levels.into()), buf.slice(bytes..)));
            }
            let length = buf.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes).ok_or_else(short)?;
            let middle = 4 + length as usize;
            if middle > buf.len() {
                return Err(short());
            }
            Ok((Some(buf.slice(4..middle)), buf.slice(middle..)))
        }
        _ => Ok((None, page.buffer().clone())),
    }
}

/// A number in seven-bit groups, lowest first.
pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Decodes `rows` values of Parquet's hybrid of runs and bit-packed groups; `each` gets a value and how often it stands.
///
/// `None` when the data end too early, are impossible, or `each` refuses a value.
pub(crate) fn for_each_run(
    data: &[u8],
    width: u8,
    rows: usize,
    mut each: impl FnMut(u32, usize) -> bool,
) -> Option<()> {
    if width > 32 {
        return None;
    }
    if width == 0 {
        return each(0, rows).then_some(());
    }
    let (mut at, mut left) = (0usize, rows);
    while left > 0 {
        let header = read_varint(data, &mut at)?;
        if header & 1 == 0 {
            let bytes = usize::from(width).div_ceil(8);
            let mut value = [0u8; 4];
            value[..bytes].copy_from_slice(data.get(at..at + bytes)?);
            at += bytes;
            let count = usize::try_from(header >> 1).ok()?.min(left);
            if count == 0 || !each(u32::from_le_bytes(value), count) {
                return None;
            }
            left -= count;
            continue;
        }
        let count = usize::try_from(header >> 1).ok()?.checked_mul(8)?.min(left);
        let (mut bits, mut held, mask) = (0u64, 0u32, (1u64 << width) - 1);
        let group_end = usize::try_from(header >> 1).ok()?.checked_mul(width.into())?.checked_add(at)?;
        for _ in 0..count {
            while held < width.into() {
                bits |= u64::from(*data.get(at)?) << held;
                at += 1;
                held += 8;
            }
            if !each((bits & mask) as u32, 1) {
                return None;
            }
            bits >>= width;
            held -= u32::from(width);
        }
        left -= count;
        at = group_end;
    }
    Some(())
}

fn read_varint(data: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let byte = *data.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(data: &[u8], width: u8, rows: usize) -> Option<Vec<u32>> {
        let mut all = Vec::new();
        for_each_run(data, width, rows, |value, count| {
            all.extend(std::iter::repeat_n(value, count));
            true
        })?;
        Some(all)
    }

    #[test]
    fn packed_group_of_the_format_description() {
        // The numbers 0 to 7 in three bits, as the Parquet format describes it.
        let data = [0b0000_0011, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(decode(&data, 3, 8), Some((0..8).collect()));
    }

    #[test]
    fn run_then_packed() {
        let mut data = varint(200 << 1);
        data.push(5);
        data.extend([0b0000_0011, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
        let mut expected = vec![5; 200];
        expected.extend([0, 1, 2]);
        assert_eq!(decode(&data, 3, 203), Some(expected));
    }

    #[test]
    fn short_data_is_refused() {
        assert_eq!(decode(&[0b0000_0011, 0b1000_1000], 3, 8), None);
        assert_eq!(decode(&[], 3, 1), None);
        assert_eq!(decode(&[0, 0], 3, 1), None, "an empty run would never end");
        assert_eq!(decode(&[2, 0], 33, 1), None);
    }
}
