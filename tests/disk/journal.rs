//! What the shim wrote down: each call that changed the disk or asked for durability, and each moment at which
//! the program said what it believed, in the order in which they took effect.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An inode's number, as the system gives it: after a file is gone, another may get the same.
pub(crate) type Ino = u64;

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A new file at a path.
    Create { ino: Ino, path: PathBuf },
    /// A new directory at a path.
    Mkdir { ino: Ino, path: PathBuf },
    /// A path names nothing any more.
    Unlink { path: PathBuf },
    /// What one path named is now named by another.
    Rename { from: PathBuf, to: PathBuf },
    /// Bytes from an offset on.
    Write { ino: Ino, at: usize, bytes: Vec<u8> },
    /// A file has a new length.
    Resize { ino: Ino, size: usize },
    /// A thread asks for a sync.
    SyncBegins { by: usize },
    /// A file's or directory's `fsync`, or a file's `fdatasync`, that a thread had asked for, is done.
    Sync { ino: Ino, data_only: bool, by: usize },
    /// `sync_file_range`: the disk may keep all of it in its own cache.
    Written { ino: Ino },
    /// What the program believed.
    Moment(String),
}

/// Lets the shim keep the journal `file` of what `command` does below `root`.
pub(crate) fn keep(command: &mut Command, root: &Path, file: &Path) {
    super::preload(command, root);
    command.env("SHIM_JOURNAL", file);
}

/// Where the program that is watched writes its moments, each with one call.
pub(crate) fn moments(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.moments", file.display()))
}

/// Reads the journal; paths are told from `root` on.
pub(crate) fn read(file: &Path, root: &Path) -> Vec<Op> {
    let bytes = fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut ops = Vec::new();
    while !rest.is_empty() {
        let head: [u8; 32] = take(&mut rest, 32).try_into().unwrap();
        let number = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let long = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
        let (ino, at) = (long(16), usize::try_from(long(24)).unwrap());
        let path = path(take(&mut rest, number(4)), root);
        let path2 = self::path(take(&mut rest, number(8)), root);
        let bytes = take(&mut rest, number(12)).to_vec();
        ops.push(match head[0] {
            b'c' => Op::Create { ino, path },
            b'k' => Op::Mkdir { ino, path },
            b'u' | b'x' => Op::Unlink { path },
            b'r' => Op::Rename { from: path, to: path2 },
            b'w' => Op::Write { ino, at, bytes },
            b't' => Op::Resize { ino, size: at },
            b'b' => Op::SyncBegins { by: at },
            b's' => Op::Sync { ino, data_only: false, by: at },
            b'd' => Op::Sync { ino, data_only: true, by: at },
            b'g' => Op::Written { ino },
            b'm' => Op::Moment(String::from_utf8(bytes).unwrap().trim_end().to_owned()),
            other => panic!("the shim wrote {:?}", char::from(other)),
        });
    }
    ops
}

fn take<'b>(rest: &mut &'b [u8], n: usize) -> &'b [u8] {
    let (taken, left) = rest.split_at(n);
    *rest = left;
    taken
}

fn path(bytes: &[u8], root: &Path) -> PathBuf {
    let path = Path::new(std::str::from_utf8(bytes).unwrap());
    path.strip_prefix(root).unwrap_or(path).to_owned()
}
