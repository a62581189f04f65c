//! A file system for tests, on which whatever may go wrong does.
//!
//! - A power failure. Of what was appended to a file since its last sync, any blocks are there, in any
//!   combination: what is missing between them reads as zeros, and the file may end at any of them. Of the
//!   names made, renamed and removed in a folder since its last sync, each is by itself as it was before or
//!   as it is now, and what is in a folder that is not there is gone.
//! - A failed sync. Some blocks reach the disk; the others stay in the cache and are never written, however
//!   often the file is synced again, as Linux does it. Of a folder, some names are as they are now.
//! - A failed append, and one for which there is no room: a part of it is in the file.
//! - No descriptors: nothing can be opened or made; what is open goes on working.
//!
//! What does not happen: bits that change by themselves, which the tests of the log are about, and a sync
//! that succeeds without having done its work.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk::files::{AppendFile, Files, Folder};

/// Small, so that a few records are many blocks.
const BLOCK: usize = 64;

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// What is to go wrong.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// The sync after this many fails.
    pub(crate) sync_in: Option<usize>,
    /// The next append fails.
    pub(crate) append: bool,
    /// Bytes that may yet be appended.
    pub(crate) room: Option<usize>,
    pub(crate) no_descriptors: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Folder,
}

#[derive(Default)]
struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    /// Blocks that the next sync writes.
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Names {
    cache: BTreeMap<String, Entry>,
    disk: BTreeMap<String, Entry>,
}

struct State {
    rng: ChaCha8Rng,
    inodes: Vec<Inode>,
    folders: BTreeMap<PathBuf, Names>,
    faults: Faults,
}

/// A handle to it.
#[derive(Clone)]
pub(crate) struct SimulatedFiles(Arc<Mutex<State>>);

impl Inode {
    /// Writes each block that is dirty with this probability.
    fn write_back(&mut self, rng: &mut ChaCha8Rng, probability: f64) {
        for block in std::mem::take(&mut self.dirty) {
            if rng.random_bool(probability) {
                let bytes = block * BLOCK..self.cache.len().min((block + 1) * BLOCK);
                self.disk.resize(self.disk.len().max(bytes.end), 0);
                self.disk[bytes.clone()].copy_from_slice(&self.cache[bytes]);
            }
        }
    }
}

impl Names {
    fn write_back(&mut self, rng: &mut ChaCha8Rng, probability: f64) {
        let names: BTreeSet<String> = self.cache.keys().chain(self.disk.keys()).cloned().collect();
        for name in names {
            let (now, before) = (self.cache.get(&name), self.disk.get(&name));
            if now != before && rng.random_bool(probability) {
                match now.copied() {
                    Some(entry) => self.disk.insert(name, entry),
                    None => self.disk.remove(&name),
                };
            }
        }
    }
}

impl State {
    /// Whether this sync is the one to fail.
    fn sync_fails(&mut self) -> bool {
        let left = self.faults.sync_in;
        self.faults.sync_in = left.and_then(|left| left.checked_sub(1));
        left == Some(0)
    }

    fn descriptor(&self) -> io::Result<()> {
        match self.faults.no_descriptors {
            true => Err(os_error(EMFILE)),
            false => Ok(()),
        }
    }
}

impl SimulatedFiles {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            inodes: Vec::new(),
            folders: BTreeMap::from([(PathBuf::from("/"), Names::default())]),
            faults: Faults::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The machine goes down and comes up again; nobody has a file open any more.
    pub(crate) fn lose_power(&self) {
        let mut state = self.state();
        let State {
            rng,
            inodes,
            folders,
            faults,
        } = &mut *state;
        *faults = Faults::default();
        let probability = [0.0, 0.5, 0.9][rng.random_range(0..3)];
        for inode in inodes {
            inode.write_back(rng, probability);
            inode.cache.clone_from(&inode.disk);
        }
        for names in folders.values_mut() {
            names.write_back(rng, probability);
            names.cache.clone_from(&names.disk);
        }
        // A parent comes before what is in it.
        for path in folders.keys().cloned().collect::<Vec<_>>() {
            if !is_listed(folders, &path) {
                folders.remove(&path);
            }
        }
    }

    /// Names in a folder.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let state = self.state();
        let names = state.folders.get(Path::new(path));
        names.map_or_else(Vec::new, |names| names.cache.keys().cloned().collect())
    }
}

/// Whether the folder that a folder is in is there and names it.
fn is_listed(folders: &BTreeMap<PathBuf, Names>, path: &Path) -> bool {
    let Some((parent, name)) = path.parent().zip(path.file_name()) else {
        return true;
    };
    let names = folders.get(parent);
    names.is_some_and(|names| names.cache.contains_key(&*name.to_string_lossy()))
}

impl Files for SimulatedFiles {
    fn make_folder(&self, path: &Path) -> io::Result<bool> {
        let (parent, name) = path.parent().zip(path.file_name()).unwrap();
        let mut state = self.state();
        let names = state.folders.get_mut(parent);
        let names = names.ok_or(io::ErrorKind::NotFound)?;
        let name = name.to_string_lossy().into_owned();
        let made = names.cache.insert(name, Entry::Folder).is_none();
        state.folders.entry(path.to_owned()).or_default();
        Ok(made)
    }

    fn folder(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        let state = self.state();
        state.descriptor()?;
        if !state.folders.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(SimulatedFolder {
            files: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = path.parent().zip(path.file_name()).unwrap();
        let mut state = self.state();
        let names = state.folders.get_mut(parent);
        let entry = names.and_then(|names| names.cache.remove(&*name.to_string_lossy()));
        entry.ok_or(io::ErrorKind::NotFound)?;
        state.folders.retain(|other, _| !other.starts_with(path));
        Ok(())
    }
}

struct SimulatedFolder {
    files: SimulatedFiles,
    path: PathBuf,
}

impl SimulatedFolder {
    fn with<T>(&self, act: impl FnOnce(&mut State, &mut Names) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.files.state();
        let mut names = state.folders.remove(&self.path).unwrap();
        let result = act(&mut state, &mut names);
        state.folders.insert(self.path.clone(), names);
        result
    }
}

impl Folder for SimulatedFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|_, names| Ok(names.cache.keys().cloned().collect()))
    }

    fn read(&self, name: &str, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.with(|state, names| {
            state.descriptor()?;
            let Some(&Entry::File(inode)) = names.cache.get(name) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            bytes.clone_from(&state.inodes[inode].cache);
            Ok(())
        })
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        self.with(|state, names| {
            state.descriptor()?;
            if names.cache.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = state.inodes.len();
            state.inodes.push(Inode::default());
            names.cache.insert(name.to_owned(), Entry::File(inode));
            let files = self.files.clone();
            Ok(Box::new(SimulatedFile { files, inode }) as Box<dyn AppendFile>)
        })
    }

    fn link(&self, name: &str, other: &Path) -> io::Result<()> {
        self.with(|state, names| {
            let entry = *names.cache.get(name).ok_or(io::ErrorKind::NotFound)?;
            let (parent, name) = other.parent().zip(other.file_name()).unwrap();
            let names = state.folders.get_mut(parent);
            let names = names.ok_or(io::ErrorKind::NotFound)?;
            let name = name.to_string_lossy().into_owned();
            assert!(names.cache.insert(name, entry).is_none());
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|state, names| {
            let entry = names.cache.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.cache.insert(to.to_owned(), entry);
            if entry == Entry::Folder {
                // Its names go with it, whichever name it has itself after a power failure.
                let (from, to) = (self.path.join(from), self.path.join(to));
                let moved = state.folders.iter().filter_map(|(path, names)| {
                    let inside = path.strip_prefix(&from).ok()?;
                    Some((to.join(inside), names.clone()))
                });
                let moved: Vec<_> = moved.collect();
                state.folders.extend(moved);
            }
            Ok(())
        })
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.with(|_, names| {
            let entry = names.cache.remove(name);
            entry.map(drop).ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, names| {
            if state.sync_fails() {
                names.write_back(&mut state.rng, 0.5);
                return Err(os_error(EIO));
            }
            names.disk.clone_from(&names.cache);
            Ok(())
        })
    }
}

struct SimulatedFile {
    files: SimulatedFiles,
    inode: usize,
}

impl AppendFile for SimulatedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.files.state();
        let State {
            rng,
            inodes,
            faults,
            ..
        } = &mut *state;
        let room = faults.room.unwrap_or(usize::MAX);
        let (len, error) = if std::mem::take(&mut faults.append) {
            (rng.random_range(0..bytes.len()), Some(EIO))
        } else if room < bytes.len() {
            (room, Some(ENOSPC))
        } else {
            (bytes.len(), None)
        };
        faults.room = faults.room.map(|room| room.saturating_sub(len));
        let inode = &mut inodes[self.inode];
        let start = inode.cache.len();
        inode.cache.extend_from_slice(&bytes[..len]);
        let blocks = start / BLOCK..inode.cache.len().div_ceil(BLOCK);
        inode.dirty.extend(blocks);
        error.map_or(Ok(()), |code| Err(os_error(code)))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.files.state();
        let fails = state.sync_fails();
        let State { rng, inodes, .. } = &mut *state;
        inodes[self.inode].write_back(rng, if fails { 0.5 } else { 1.0 });
        if fails { Err(os_error(EIO)) } else { Ok(()) }
    }
}
