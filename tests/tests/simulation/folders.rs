//! What of the names in folders is durable, and what may be: changes of a folder since its last fsync come to the medium in
//! order, and a power cut undoes the last of them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::file_history::Loss;
use crate::rng::Rng;

/// A change of a folder's entries that is not durable.
enum Entry {
    Made(PathBuf),
    MadeFolder(PathBuf),
    /// From, to, and a second name of what was replaced.
    Renamed(PathBuf, PathBuf, Option<PathBuf>),
    /// What was removed, and a second name of it.
    Removed(PathBuf, PathBuf),
}

/// The folders of one host.
pub struct Folders {
    /// Where the second names lie.
    graves: PathBuf,
    next_grave: u64,
    changed: BTreeMap<PathBuf, Vec<Entry>>,
}

impl Folders {
    pub fn new(graves: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&graves)?;
        Ok(Self { graves, next_grave: 0, changed: BTreeMap::new() })
    }

    /// A second name for the file at `path`, `None` when there is none.
    fn keep(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        self.next_grave += 1;
        let grave = self.graves.join(self.next_grave.to_string());
        match std::fs::hard_link(path, &grave) {
            Ok(()) => Ok(Some(grave)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn note(&mut self, path: &Path, entry: Entry) {
        let folder = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        self.changed.entry(folder).or_default().push(entry);
    }

    pub fn made(&mut self, path: &Path) {
        self.note(path, Entry::Made(path.to_path_buf()));
    }

    pub fn made_folder(&mut self, path: &Path) {
        self.note(path, Entry::MadeFolder(path.to_path_buf()));
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let replaced = self.keep(to)?;
        std::fs::rename(from, to)?;
        self.note(to, Entry::Renamed(from.to_path_buf(), to.to_path_buf(), replaced));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let grave = self.keep(path)?;
        std::fs::remove_file(path)?;
        if let Some(grave) = grave {
            self.note(path, Entry::Removed(path.to_path_buf(), grave));
        }
        Ok(())
    }

    /// The entries of `folder` are durable.
    pub fn sync(&mut self, folder: &Path) -> io::Result<()> {
        for entry in self.changed.remove(folder).unwrap_or_default() {
            match entry {
                Entry::Renamed(_, _, Some(grave)) | Entry::Removed(_, grave) => std::fs::remove_file(grave)?,
                Entry::Renamed(_, _, None) | Entry::Made(_) | Entry::MadeFolder(_) => {}
            }
        }
        Ok(())
    }

    /// Undoes what a power cut may undo. Gives how many changes that was.
    pub fn cut(&mut self, loss: Loss, rng: &mut Rng) -> io::Result<u64> {
        let mut undone = 0;
        // The deepest first: a folder goes after what lies in it.
        for (_, entries) in std::mem::take(&mut self.changed).into_iter().rev() {
            let kept = match loss {
                Loss::All => 0,
                Loss::None => entries.len(),
                Loss::Sectors | Loss::Changes => rng.below(entries.len() as u64 + 1) as usize,
            };
            for entry in entries.into_iter().skip(kept).rev() {
                undone += 1;
                match entry {
                    Entry::Made(path) => std::fs::remove_file(path)?,
                    Entry::MadeFolder(path) => std::fs::remove_dir_all(path)?,
                    Entry::Renamed(from, to, replaced) => {
                        std::fs::rename(&to, from)?;
                        if let Some(grave) = replaced {
                            std::fs::rename(grave, to)?;
                        }
                    }
                    Entry::Removed(path, grave) => std::fs::rename(grave, path)?,
                }
            }
        }
        Ok(undone)
    }
}
