//! The one error of this crate: what is wrong with which file, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a file could not be read or written.
///
/// Its `Display` is one or two sentences for a person; the parts stand alone for programs. Rows count from 0, as in
/// pandas and PyArrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The file or folder.
    pub file: PathBuf,
    /// Where in it: row, task, column; empty when the whole file is meant.
    pub place: String,
    /// What was found.
    pub found: String,
    /// What was expected instead.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, FormatError>;

impl FormatError {
    /// An error about `file`; the other parts are given by the methods that follow.
    pub fn new(file: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        FormatError {
            file: file.to_path_buf(),
            place: String::new(),
            found: found.into(),
            expected: expected.into(),
            hint: String::new(),
        }
    }

    /// Says where in the file.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// An operating system error while `doing` something with `file`.
    pub(crate) fn io(file: &Path, doing: &str, error: &std::io::Error) -> Self {
        FormatError::new(file, error.to_string(), format!("to be able to {doing} it"))
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if !self.place.is_empty() {
            write!(f, ", {}", self.place)?;
        }
        write!(f, ": found {}, expected {}.", self.found, self.expected)?;
        if !self.hint.is_empty() {
            write!(f, " {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for FormatError {}
