//! A protection group for a benchmark: its disk, its configuration, its vault.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A program of this build.
///
/// # Errors
/// When it was not built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("this program's place is not known")?;
    let path = here.with_file_name(name);
    ensure!(path.exists(), "{} is missing: `make bench` builds it", path.display());
    Ok(path)
}

/// The name of a disk, and of its export.
fn export(disk: usize) -> String {
    format!("vd{}", char::from(b'a' + u8::try_from(disk).unwrap_or(25)))
}

/// Writes a file of `mib` MiB, half of which can be compressed away.
///
/// # Errors
/// When fio fails.
pub fn fill(path: &Path, mib: u64) -> Result<()> {
    let file = format!("--filename={}", path.display());
    let mut fio = Command::new("fio");
    fio.args(["--name=fill", "--rw=write", "--bs=1M", "--direct=1", "--ioengine=io_uring", "--iodepth=8"]);
    fio.args(["--buffer_compress_percentage=50", "--output=/dev/null", &file]).arg(format!("--size={mib}m"));
    let done = fio.status().context("fio cannot be started: install it")?;
    ensure!(done.success(), "{} cannot be written", path.display());
    Ok(())
}

/// A group whose files lie beside its disk `dir/name.img`; further disks are `dir/name.1.img` and so on.
#[derive(Debug, Clone)]
pub struct Group {
    dir: PathBuf,
    name: String,
}

impl Group {
    /// One that was set up.
    #[must_use]
    pub fn at(dir: &Path, name: &str) -> Self {
        Self { dir: dir.to_owned(), name: name.to_owned() }
    }

    /// Makes vault and configuration anew, and enables the group as one whose disk is in use already.
    ///
    /// # Errors
    /// When the command line refuses something.
    pub fn set_up(dir: &Path, name: &str) -> Result<Self> {
        Self::set_up_with(dir, name, 1, "")
    }

    /// As [`Group::set_up`], with so many disks and further lines of configuration.
    ///
    /// # Errors
    /// As [`Group::set_up`].
    pub fn set_up_with(dir: &Path, name: &str, disks: usize, more: &str) -> Result<Self> {
        let group = Self::at(dir, name);
        for old in ["vault", "state", "run", "target"] {
            match std::fs::remove_dir_all(group.path(old)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        let at = dir.display();
        let mut config = format!(
            "group = \"bench-{name}\"\nvault = \"file://{at}/{name}.vault\"\nkey_file = \"{at}/{name}.key\"\nstate_dir = \"{at}/{name}.state\"\n\
             run_dir = \"{at}/{name}.run\"\n{more}\n"
        );
        for n in 0..disks {
            config += &format!(
                "[[disk]]\nname = \"{}\"\nsource = \"{}\"\nlisten = \"unix:{at}/{name}.sock\"\n",
                export(n),
                group.image(n).display()
            );
        }
        std::fs::write(group.config(), config)?;
        let config = group.config();
        let config = config.to_str().context("a plain path")?;
        let key = format!("{at}/{name}.key");
        for words in [&["init", "--vault", &group.vault(), "--key-file", &key][..], &["enable", "--adopt", config]] {
            let done = Command::new(ours("farshore")?).args(words).output()?;
            ensure!(done.status.success(), "farshore {words:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(group)
    }

    /// `dir/name.ending`.
    #[must_use]
    pub fn path(&self, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", self.name))
    }

    /// The file of a disk.
    #[must_use]
    pub fn image(&self, disk: usize) -> PathBuf {
        match disk {
            0 => self.path("img"),
            n => self.path(&format!("{n}.img")),
        }
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path("toml")
    }

    /// The vault's URL.
    #[must_use]
    pub fn vault(&self) -> String {
        format!("file://{}", self.path("vault").display())
    }

    /// The export of the first disk.
    #[must_use]
    pub fn uri(&self) -> String {
        self.uri_of(0)
    }

    /// The export of a disk.
    #[must_use]
    pub fn uri_of(&self, disk: usize) -> String {
        format!("nbd+unix:///{}?socket={}", export(disk), self.path("sock").display())
    }

    /// Removes all of its files; its agent has ended.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove(&self, disks: usize) -> Result<()> {
        for folder in ["vault", "state", "run"].map(|ending| self.path(ending)).into_iter().filter(|path| path.exists())
        {
            std::fs::remove_dir_all(folder)?;
        }
        (0..disks).try_for_each(|n| std::fs::remove_file(self.image(n)))?;
        // The agent leaves its ring for the next one; it is memory.
        let ring = PathBuf::from(format!("/dev/shm/farshore-bench-{}.ring", self.name));
        if ring.exists() {
            std::fs::remove_file(ring)?;
        }
        Ok(std::fs::remove_file(self.config())?)
    }

    /// What its agent says of it.
    #[must_use]
    pub fn source(&self) -> Option<Value> {
        Some(self.status()?["source"].clone())
    }

    /// What `farshore status` says of it.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let mut status = Command::new(ours("farshore").ok()?);
        status.arg("status").arg(self.config()).arg("--json");
        let groups: Value = serde_json::from_slice(&status.output().ok()?.stdout).ok()?;
        Some(groups[0].clone())
    }
}
