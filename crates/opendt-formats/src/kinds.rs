//! How numbers may be stored in a column, and what they must be.

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use parquet::schema::types::ColumnDescriptor;

/// Largest whole number up to which `f64` holds every whole number.
const EXACT_F64: i64 = 1 << 53;

/// How the values of a column are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    I32,
    U32,
    /// Whole numbers, to be divided by the divisor (time units finer than a millisecond).
    I64 {
        divisor: i64,
    },
    U64,
    /// Nanoseconds in a day and a day number: timestamps of older writers.
    Int96,
    F32,
    F64,
    Bool,
    Text,
    /// A list of one of the others, in one repeated level.
    List,
    /// Anything that no column of ours can be.
    Other,
}

impl Kind {
    /// Kind of a column.
    pub fn of(descriptor: &ColumnDescriptor) -> Kind {
        let nested = descriptor.path().parts().len() > 1 || descriptor.max_rep_level() > 0;
        if nested {
            return if descriptor.max_rep_level() == 1 { Kind::List } else { Kind::Other };
        }
        Kind::of_values(descriptor)
    }

    /// Kind of the values, whatever they are nested in.
    pub fn of_values(descriptor: &ColumnDescriptor) -> Kind {
        let logical = descriptor.logical_type_ref();
        let converted = descriptor.converted_type();
        match descriptor.physical_type() {
            PhysicalType::BOOLEAN => Kind::Bool,
            PhysicalType::INT32 => match (logical, converted) {
                (Some(LogicalType::Integer(int)), _) if !int.is_signed => Kind::U32,
                (None, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32) => Kind::U32,
                (Some(LogicalType::Integer(_)), _) => Kind::I32,
                (None, ConvertedType::NONE | ConvertedType::INT_8 | ConvertedType::INT_16 | ConvertedType::INT_32) => {
                    Kind::I32
                }
                _ => Kind::Other,
            },
            PhysicalType::INT64 => match (logical, converted) {
                (Some(LogicalType::Timestamp(time)), _) => Kind::I64 {
                    divisor: match time.unit {
                        TimeUnit::MILLIS => 1,
                        TimeUnit::MICROS => 1_000,
                        TimeUnit::NANOS => 1_000_000,
                    },
                },
                (Some(LogicalType::Integer(int)), _) if !int.is_signed => Kind::U64,
                (None, ConvertedType::UINT_64) => Kind::U64,
                (Some(LogicalType::Integer(_)), _) => Kind::I64 { divisor: 1 },
                (None, ConvertedType::TIMESTAMP_MICROS) => Kind::I64 { divisor: 1_000 },
                (None, ConvertedType::NONE | ConvertedType::INT_64 | ConvertedType::TIMESTAMP_MILLIS) => {
                    Kind::I64 { divisor: 1 }
                }
                _ => Kind::Other,
            },
            PhysicalType::INT96 => Kind::Int96,
            PhysicalType::FLOAT => Kind::F32,
            PhysicalType::DOUBLE => Kind::F64,
            PhysicalType::BYTE_ARRAY => match (logical, converted) {
                (None | Some(LogicalType::String | LogicalType::Enum), ConvertedType::NONE)
                | (_, ConvertedType::UTF8 | ConvertedType::ENUM) => Kind::Text,
                (Some(LogicalType::String | LogicalType::Enum), _) => Kind::Text,
                _ => Kind::Other,
            },
            PhysicalType::FIXED_LEN_BYTE_ARRAY => Kind::Other,
        }
    }
}

/// A number type that columns are decoded into.
pub(crate) trait Number: Copy + Default + std::fmt::Display {
    /// The value and whether it is held exactly.
    fn from_int(value: i64) -> (Self, bool);
    /// The value and whether it is held exactly.
    fn from_float(value: f64) -> (Self, bool);
}

impl Number for i64 {
    #[inline(always)]
    fn from_int(value: i64) -> (Self, bool) {
        (value, true)
    }

    #[inline(always)]
    fn from_float(value: f64) -> (Self, bool) {
        (value as i64, value.abs() <= EXACT_F64 as f64 && value.trunc() == value)
    }
}

impl Number for u32 {
    #[inline(always)]
    fn from_int(value: i64) -> (Self, bool) {
        (value as u32, i64::from(value as u32) == value)
    }

    #[inline(always)]
    fn from_float(value: f64) -> (Self, bool) {
        (value as u32, f64::from(value as u32) == value)
    }
}

impl Number for f64 {
    #[inline(always)]
    fn from_int(value: i64) -> (Self, bool) {
        (value as f64, value.unsigned_abs() <= EXACT_F64 as u64)
    }

    #[inline(always)]
    fn from_float(value: f64) -> (Self, bool) {
        (value, true)
    }
}

/// What the numbers of a column must be.
pub(crate) struct Rule<N, F> {
    /// What stands for a missing value; `None` forbids missing values.
    pub null: Option<N>,
    /// Whether a value is allowed.
    pub allows: F,
    /// In words.
    pub expected: &'static str,
    /// What to do otherwise.
    pub hint: &'static str,
}
