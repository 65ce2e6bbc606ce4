//! What a disk may hold after a power cut, made from the journal of what was done to it.
//!
//! **What is surely there.** Of a file: all that was written or resized before its last `fsync` or `fdatasync` began,
//! of those that are done. Of a directory: the names that were made, changed or taken before its last `fsync`.
//! `sync_file_range` makes nothing durable. Files are followed by their inode, names only lead to them.
//!
//! **What may be there.** Of the rest anything: nothing, all, what came first, any of it, and of a write any of
//! its sectors of 512 bytes or a beginning of any length. A file that was to grow may have grown without what was
//! to stand there; then it holds zeros. Names come in one of two ways, see [`Names`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::journal::{Ino, Op};

const SECTOR: usize = 512;

/// A file or directory, by the order of creation.
type Id = usize;
const ROOT: Id = 0;

/// How names that were not synced survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// As ext4, XFS and btrfs keep them: those that changed first, and all before any `fsync` of whatever file.
    InOrder,
    /// Any of them, as the standard allows: only the `fsync` of their own directory makes them sure.
    Any,
}

/// How bytes that were not synced survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// None.
    Dropped,
    /// All, as after the death of the program alone.
    Kept,
    /// Those that were written first, up to somewhere within a write.
    CutShort,
    /// Any of the writes, whole.
    AnyWrites,
    /// Any of the sectors.
    AnySectors,
}

impl Bytes {
    pub(crate) const ALL: [Self; 5] =
        [Self::Dropped, Self::Kept, Self::CutShort, Self::AnyWrites, Self::AnySectors];
}

#[derive(Clone, Default)]
struct Node {
    is_dir: bool,
    /// What is surely there.
    durable: Vec<u8>,
    /// What may be there, each with its place in the order of all changes.
    unsynced: Vec<(usize, Arc<Op>)>,
}

/// A change of names.
#[derive(Clone)]
struct Change {
    /// The names that are taken and given, each with its directory.
    takes: Option<(Id, String)>,
    gives: Option<(Id, String, Id)>,
    /// The directories that were not synced since.
    unsynced: Vec<Id>,
}

type NameMap = BTreeMap<(Id, String), Id>;

/// The disk at some point of a journal.
#[derive(Clone)]
pub(crate) struct Disk {
    /// How many entries of journals it has seen.
    age: usize,
    /// The age at which a thread asked for its last sync.
    asked: BTreeMap<usize, usize>,
    nodes: Vec<Node>,
    /// The newest node with that inode.
    by_ino: BTreeMap<Ino, Id>,
    /// As the program sees it.
    names: NameMap,
    /// Surely there, if names survive in any choice.
    durable: NameMap,
    /// Since `durable`, in order; those that are durable meanwhile have nothing unsynced.
    changes: Vec<Change>,
    /// So many of `changes` are surely there, if names survive in order.
    in_order: usize,
}

impl Disk {
    /// All that stands below `root`, durable.
    pub(crate) fn of(root: &Path) -> Self {
        let mut disk = Self {
            age: 0,
            asked: BTreeMap::new(),
            nodes: vec![Node { is_dir: true, ..Node::default() }],
            by_ino: BTreeMap::from([(fs::metadata(root).unwrap().ino(), ROOT)]),
            names: NameMap::new(),
            durable: NameMap::new(),
            changes: Vec::new(),
            in_order: 0,
        };
        disk.add(ROOT, root);
        disk.durable = disk.names.clone();
        disk
    }

    fn add(&mut self, id: Id, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let is_dir = entry.file_type().unwrap().is_dir();
            let child = self.node(entry.metadata().unwrap().ino(), is_dir);
            self.names.insert((id, entry.file_name().into_string().unwrap()), child);
            if is_dir {
                self.add(child, &entry.path());
            } else {
                self.nodes[child].durable = fs::read(entry.path()).unwrap();
            }
        }
    }

    fn node(&mut self, ino: Ino, is_dir: bool) -> Id {
        self.nodes.push(Node { is_dir, ..Node::default() });
        self.by_ino.insert(ino, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// Does what stands in the journal.
    pub(crate) fn apply(&mut self, op: &Arc<Op>) {
        self.age += 1;
        match &**op {
            Op::Create { ino, path } => self.link(*ino, false, path),
            Op::Mkdir { ino, path } => self.link(*ino, true, path),
            Op::Unlink { path } => {
                let place = self.place(path);
                self.names.remove(&place).unwrap();
                self.change(Some(place), None);
            }
            Op::Rename { from, to } => {
                let from = self.place(from);
                let (dir, name) = self.place(to);
                let id = self.names.remove(&from).unwrap();
                self.names.insert((dir, name.clone()), id);
                self.change(Some(from), Some((dir, name, id)));
            }
            Op::Write { ino, .. } | Op::Resize { ino, .. } => {
                let id = self.by_ino[ino];
                self.nodes[id].unsynced.push((self.age, Arc::clone(op)));
            }
            Op::SyncBegins { by } => drop(self.asked.insert(*by, self.age)),
            Op::Sync { ino, data_only, by } => self.sync(self.by_ino[ino], *data_only, self.asked[by]),
            Op::Written { .. } | Op::Moment(_) => {}
        }
    }

    fn link(&mut self, ino: Ino, is_dir: bool, path: &Path) {
        let id = self.node(ino, is_dir);
        let (dir, name) = self.place(path);
        self.names.insert((dir, name.clone()), id);
        self.change(None, Some((dir, name, id)));
    }

    fn change(&mut self, takes: Option<(Id, String)>, gives: Option<(Id, String, Id)>) {
        let mut unsynced: Vec<Id> = takes.iter().map(|t| t.0).chain(gives.iter().map(|g| g.0)).collect();
        unsynced.dedup();
        self.changes.push(Change { takes, gives, unsynced });
    }

    fn sync(&mut self, id: Id, data_only: bool, asked: usize) {
        let node = &mut self.nodes[id];
        let covered = node.unsynced.partition_point(|(age, _)| *age < asked);
        for (_, op) in node.unsynced.drain(..covered) {
            perform(&mut node.durable, &op);
        }
        if !data_only {
            self.in_order = self.changes.len();
        }
        for change in &mut self.changes {
            change.unsynced.retain(|dir| *dir != id);
        }
        // Changes are taken over in order, so that a later one finds what an earlier one left.
        let done = self.changes.iter().take_while(|c| c.unsynced.is_empty()).count();
        for change in self.changes.drain(..done) {
            rename(&mut self.durable, &change);
        }
        self.in_order = self.in_order.saturating_sub(done);
    }

    /// The directory and the name that a path ends in.
    fn place(&self, path: &Path) -> (Id, String) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let dirs = path.parent().unwrap().iter().map(|part| part.to_str().unwrap().to_owned());
        (dirs.fold(ROOT, |dir, part| self.names[&(dir, part)]), name)
    }

    /// How many entries of journals it has seen.
    pub(crate) fn age(&self) -> usize {
        self.age
    }

    /// Whether a file of this inode stands in the directory `dir`, and with it one that holds bytes from before `age`
    /// that are not synced.
    pub(crate) fn is_owed(&self, dir: &Path, ino: Ino, age: usize) -> bool {
        let step = |at: Option<Id>, part: &OsStr| self.names.get(&(at?, part.to_str()?.to_owned())).copied();
        let Some(dir) = dir.iter().fold(Some(ROOT), step) else { return false };
        let mut files = self.names.range((dir, String::new())..(dir + 1, String::new())).map(|(_, id)| *id);
        files.clone().any(|id| self.by_ino.get(&ino) == Some(&id))
            && files.any(|id| self.nodes[id].unsynced.first().is_some_and(|(at, _)| *at <= age))
    }

    /// Makes the directory `to` into one that may be found after a cut here. What happens to what was not synced
    /// is drawn from `random`.
    pub(crate) fn cut(&self, names: Names, bytes: Bytes, random: &mut fastrand::Rng, to: &Path) {
        let names = self.names_after(names, random);
        let files = self.files_after(bytes, random);
        fs::create_dir(to).unwrap();
        write_out(&names, &files, ROOT, to);
    }

    /// Makes the directory `to` into what another process would see now, and goes on with that one: what was not
    /// synced is still not synced.
    pub(crate) fn move_to(&mut self, to: &Path) {
        let files = self.files_after(Bytes::Kept, &mut fastrand::Rng::with_seed(0));
        fs::create_dir(to).unwrap();
        write_out(&self.names, &files, ROOT, to);
        self.by_ino = BTreeMap::from([(fs::metadata(to).unwrap().ino(), ROOT)]);
        self.find(ROOT, to);
    }

    fn find(&mut self, dir: Id, at: &Path) {
        let entries = self.names.range((dir, String::new())..(dir + 1, String::new()));
        for (name, id) in entries.map(|((_, name), id)| (name.clone(), *id)).collect::<Vec<_>>() {
            let path = at.join(name);
            self.by_ino.insert(fs::metadata(&path).unwrap().ino(), id);
            if self.nodes[id].is_dir {
                self.find(id, &path);
            }
        }
    }

    fn names_after(&self, names: Names, random: &mut fastrand::Rng) -> NameMap {
        let all = self.changes.len();
        // How many come first, how likely each of the others is, and one that is surely lost.
        let (first, odds, lost) = match names {
            Names::InOrder => (random.usize(self.in_order..=all), 0.0, None),
            Names::Any => match random.u8(0..5) {
                0 => (0, 0.0, None),
                1 => (random.usize(0..=all), 0.0, None),
                2 if all > 0 => (all, 0.0, Some(random.usize(0..all))),
                _ => (0, random.f64(), None),
            },
        };
        // What was removed is gone, and what was to take its place is not there.
        let only_gone = names == Names::Any && random.u8(0..6) == 0;
        let mut found = self.durable.clone();
        for (n, change) in self.changes.iter().enumerate() {
            let sure = change.unsynced.is_empty();
            if sure
                || (only_gone && change.gives.is_none())
                || (!only_gone && lost != Some(n) && (n < first || random.f64() < odds))
            {
                rename(&mut found, change);
            }
        }
        found
    }

    fn files_after(&self, bytes: Bytes, random: &mut fastrand::Rng) -> BTreeMap<Id, Vec<u8>> {
        let files = self.nodes.iter().enumerate().filter(|(_, node)| !node.is_dir);
        let mut found: BTreeMap<Id, Vec<u8>> = files.map(|(id, node)| (id, node.durable.clone())).collect();
        let mut unsynced: Vec<(usize, Id, &Op)> = Vec::new();
        for (id, node) in self.nodes.iter().enumerate() {
            unsynced.extend(node.unsynced.iter().map(|(age, op)| (*age, id, &**op)));
        }
        unsynced.sort_unstable_by_key(|(age, ..)| *age);
        let last = if unsynced.is_empty() { 0 } else { random.usize(0..unsynced.len()) };
        let odds = random.f64();
        let holes = random.bool();
        for (n, (_, id, op)) in unsynced.into_iter().enumerate() {
            let file = found.get_mut(&id).unwrap();
            match bytes {
                Bytes::Dropped => {}
                Bytes::Kept => perform(file, op),
                Bytes::CutShort if n < last => perform(file, op),
                Bytes::CutShort if n == last => match op {
                    Op::Write { at, bytes, .. } => {
                        let len = random.usize(0..=bytes.len());
                        let over = if random.bool() { (at + len) % SECTOR } else { 0 };
                        put(file, *at, &bytes[..len.saturating_sub(over)]);
                    }
                    _ => perform(file, op),
                },
                Bytes::CutShort => {}
                Bytes::AnyWrites => {
                    if random.f64() < odds {
                        perform(file, op);
                    }
                }
                Bytes::AnySectors => match op {
                    Op::Write { at, bytes, .. } => {
                        let end = at + bytes.len();
                        let mut from = *at;
                        while from < end {
                            let to = (from / SECTOR * SECTOR + SECTOR).min(end);
                            if random.f64() < odds {
                                put(file, from, &bytes[from - at..to - at]);
                            }
                            from = to;
                        }
                        if holes && file.len() < end {
                            file.resize(end, 0);
                        }
                    }
                    _ if random.f64() < odds => perform(file, op),
                    _ => {}
                },
            }
        }
        found
    }
}

fn perform(file: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { at, bytes, .. } => put(file, *at, bytes),
        Op::Resize { size, .. } => file.resize(*size, 0),
        other => panic!("{other:?} changes no file"),
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

fn rename(names: &mut NameMap, change: &Change) {
    let taken = change.takes.as_ref().map(|place| names.remove(place));
    match &change.gives {
        // What was to be renamed never got there.
        Some(_) if taken == Some(None) => {}
        Some((dir, name, id)) => drop(names.insert((*dir, name.clone()), *id)),
        None => {}
    }
}

fn write_out(names: &NameMap, files: &BTreeMap<Id, Vec<u8>>, dir: Id, to: &Path) {
    for ((_, name), id) in names.range((dir, String::new())..(dir + 1, String::new())) {
        match files.get(id) {
            Some(bytes) => fs::write(to.join(name), bytes).unwrap(),
            None => {
                fs::create_dir(to.join(name)).unwrap();
                write_out(names, files, *id, &to.join(name));
            }
        }
    }
}
