//! What can go wrong with the store, and what a person does about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Seq;

/// Why the store did not do what it was asked. Cheap to clone: one failed write answers a whole group.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error(
        "the store in {} is in use by another process; stop that one, or give this one another directory with --state-dir",
        .path.display()
    )]
    Locked {
        /// sled's directory.
        path: PathBuf,
    },
    /// The directory cannot be created, or not written to.
    #[error(
        "the store cannot write to {}: {source}; give it a directory that this user may write to, with --state-dir",
        .path.display()
    )]
    NotWritable {
        /// What was to be created or opened.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A newer program has written here. Nothing was touched.
    #[error(
        "{} says format {found}, this program knows formats up to {known}; run the newer program again",
        .path.display()
    )]
    NewerFormat {
        /// The number on disk.
        found: u32,
        /// The newest number this program knows.
        known: u32,
        /// Where the number stands.
        path: PathBuf,
    },
    /// What was read is not what was written. Rows beside a damaged row are not affected.
    #[error("the store is damaged: {place}: {reason}")]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong there.
        reason: String,
    },
    /// The disk refused: it is full, or read-only. A write is tried again until it takes it.
    #[error("the disk refuses the store in {}: {source}; check its space, and whether it is writable", .path.display())]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The disk failed to sync: nobody knows what it holds of what was written last. The store must be opened anew.
    #[error("the disk failed to sync the store in {}: {source}; check the disk", .path.display())]
    NotSynced {
        /// The file concerned.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Something to store is over its bound. Nothing of the same call was stored.
    #[error("{what} has {bytes} bytes, the store takes at most {max}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The store was closed, or its writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The position of the damaged row, if that is what is wrong: reading goes on behind it.
    #[must_use]
    pub fn damaged_row(&self) -> Option<Seq> {
        match self {
            Self::Damaged { place: Place::Row { seq, .. }, .. } => *seq,
            Self::Damaged { place: Place::File(_), .. }
            | Self::Locked { .. }
            | Self::NotWritable { .. }
            | Self::NewerFormat { .. }
            | Self::Io { .. }
            | Self::NotSynced { .. }
            | Self::TooLarge { .. }
            | Self::Closed => None,
        }
    }

    /// Whether trying again cannot help until a person (or the calling program) changes something.
    ///
    /// `Locked` passes when the other process ends, `Io` when the disk has room again, `Damaged` when the store has
    /// been begun anew with what can be read of it, as the daemon does at its start.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotWritable { .. } | Self::NewerFormat { .. } | Self::TooLarge { .. } | Self::Closed => {
                true
            }
            Self::Locked { .. } | Self::Io { .. } | Self::NotSynced { .. } | Self::Damaged { .. } => false,
        }
    }

    /// The system's answer while the store was being opened or created at `path`.
    pub(crate) fn at_open(path: &Path, source: io::Error) -> Self {
        if is_refusal(source.kind()) { Self::not_writable(path, source) } else { Self::io(path, source) }
    }

    /// The system's answer while the directory `path` was being made, with every one above it. That something is not
    /// found can then only mean a place where nothing can be made, as in `/proc`.
    pub(super) fn at_creation(path: &Path, source: io::Error) -> Self {
        let kind = source.kind();
        if is_refusal(kind) || kind == io::ErrorKind::NotFound {
            Self::not_writable(path, source)
        } else {
            Self::io(path, source)
        }
    }

    fn not_writable(path: &Path, source: io::Error) -> Self {
        Self::NotWritable { path: path.to_owned(), source: Arc::new(source) }
    }

    /// The system's answer while the store was in use.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }

    /// A file or directory that is not what it should be.
    pub(super) fn damaged_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { place: Place::File(path.to_owned()), reason: reason.into() }
    }
}

/// Whether the system's answer is to the path, not to how the disk is now.
fn is_refusal(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::PermissionDenied
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::AlreadyExists
            | Kind::InvalidFilename
    )
}

/// Where damage was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One stored value.
    Row {
        /// The tree's name.
        tree: &'static str,
        /// The key: a decimal [`Seq`](super::Seq) where the tree is keyed by one, else the key's text.
        key: String,
        /// The position in the queue, where there is one:
        /// [`Settle::Removed`](super::Settle::Removed) takes the row away.
        seq: Option<super::Seq>,
    },
    /// A whole file or directory.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row { tree, key, seq: _ } => write!(f, "row {key} of tree {tree}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}
