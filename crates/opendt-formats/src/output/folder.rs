//! A folder that appears as a whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::OutputFile;
use crate::error::{FormatError, Result};

/// Distinguishes several writers of one process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A temporary folder beside `target`; removed when dropped before it is published.
#[derive(Debug)]
pub(super) struct PartialFolder {
    target: PathBuf,
    temporary: PathBuf,
    /// Folders above the target that did not exist, outermost first.
    made: Vec<PathBuf>,
    published: bool,
}

impl PartialFolder {
    /// Makes the temporary folder and the missing folders above it.
    pub fn create(target: &Path) -> Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(FormatError::new(target, "no name for a folder", "a path that ends in one"));
        };
        check_replaceable(target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut made: Vec<PathBuf> = parent
            .ancestors()
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
            .map(Path::to_path_buf)
            .collect();
        made.reverse();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!(".{}.partial-{}-{number}", name.to_string_lossy(), std::process::id()));
        let folder = PartialFolder { target: target.to_path_buf(), temporary, made, published: false };
        fs::create_dir_all(&folder.temporary).map_err(|error| {
            FormatError::io(&folder.temporary, "create", &error).hint("Choose another output folder.")
        })?;
        Ok(folder)
    }

    /// Where files are written meanwhile.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the folder its name; results of an earlier run under that name are replaced.
    pub fn publish(mut self) -> Result<()> {
        check_replaceable(&self.target)?;
        let failed = |error: &std::io::Error| {
            FormatError::io(&self.target, "replace", error).hint("Choose another output folder.")
        };
        let old = self.temporary.with_extension("old");
        let replaces = self.target.exists();
        if replaces {
            fs::rename(&self.target, &old).map_err(|error| failed(&error))?;
        }
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            if replaces {
                // Best effort: the error that is reported is the one that matters.
                let _ = fs::rename(&old, &self.target);
            }
            return Err(failed(&error));
        }
        self.published = true;
        if replaces {
            fs::remove_dir_all(&old).map_err(|error| FormatError::io(&old, "remove", &error))?;
        }
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // Nothing more can be done about failures here, and the folder is hidden.
        let _ = fs::remove_dir_all(&self.temporary);
        for dir in self.made.iter().rev() {
            let _ = fs::remove_dir(dir); // only when empty
        }
    }
}

/// An existing target may hold result files of an earlier run and nothing else.
fn check_replaceable(target: &Path) -> Result<()> {
    if !target.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(target)
        .map_err(|error| FormatError::io(target, "use", &error).hint("Choose another output folder."))?;
    for entry in entries {
        let name = entry.map_err(|error| FormatError::io(target, "read", &error))?.file_name();
        if !OutputFile::ALL.iter().any(|file| name.to_str() == Some(&file.file_name())) {
            return Err(FormatError::new(
                target,
                format!("the file '{}'", name.to_string_lossy()),
                "an empty folder or earlier results",
            )
            .hint("Move it away or choose another output folder."));
        }
    }
    Ok(())
}
