//! The guest's root: a cpio archive (format "newc", as `Documentation/driver-api/early-userspace/buffer-format.rst` of the
//! kernel has it) of a static busybox, a few dynamic programs with their libraries, kernel modules and a script.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// File type bits of a mode.
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

enum Node {
    Folder,
    File { bytes: Vec<u8>, mode: u32 },
    Link(String),
}

/// An archive being put together. Paths are absolute paths in the guest.
#[derive(Default)]
pub struct Initrd {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Initrd {
    /// Adds an empty folder and those above it.
    pub fn folder(&mut self, path: impl AsRef<Path>) {
        for dir in path.as_ref().ancestors().filter(|d| *d != Path::new("/")) {
            self.nodes.entry(dir.to_path_buf()).or_insert(Node::Folder);
        }
    }

    /// Adds a file.
    pub fn file(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>, mode: u32) {
        let path = path.as_ref();
        self.folder(path.parent().expect("a file lies in a folder"));
        self.nodes.insert(path.to_path_buf(), Node::File { bytes: bytes.into(), mode });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, to: &str) {
        let path = path.as_ref();
        self.folder(path.parent().expect("a link lies in a folder"));
        self.nodes.insert(path.to_path_buf(), Node::Link(to.to_owned()));
    }

    /// Adds a program of this machine as `/bin/<name>`, with the libraries that it is linked with.
    ///
    /// # Panics
    /// When it or one of its libraries is not there.
    pub fn program(&mut self, host: &Path) {
        let name = host.file_name().expect("a program has a name");
        self.file(Path::new("/bin").join(name), read(host), 0o755);
        let ldd = Command::new("ldd").arg(host).output().expect("ldd comes with the C library");
        let libraries = String::from_utf8_lossy(&ldd.stdout).into_owned();
        assert!(!libraries.contains("not found"), "{} misses a library:\n{libraries}", host.display());
        // "libc.so.6 => /lib/…/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"
        for word in libraries.split_whitespace().filter(|w| w.starts_with('/')) {
            if !self.nodes.contains_key(Path::new(word)) {
                self.file(word, read(Path::new(word)), 0o755);
            }
        }
    }

    /// Adds the kernel modules of `names` and those they depend on as `/modules/<n>-<name>.ko`, so that loading them in
    /// the order of their names works.
    ///
    /// # Panics
    /// When one is not among the files under `modules_root`.
    pub fn modules(&mut self, modules_root: &Path, names: &[&str]) {
        let mut files = BTreeMap::new();
        find_modules(modules_root, &mut files);
        let mut done = HashSet::new();
        for name in names {
            self.module(&files, name, &mut done);
        }
    }

    fn module(&mut self, files: &BTreeMap<String, PathBuf>, name: &str, done: &mut HashSet<String>) {
        if done.contains(name) {
            return;
        }
        let path = files.get(name).unwrap_or_else(|| panic!("the kernel package has no module {name}"));
        let bytes = read(path);
        for needed in depends(&bytes) {
            self.module(files, &needed, done);
        }
        self.file(format!("/modules/{:02}-{name}.ko", done.len()), bytes, 0o644);
        done.insert(name.to_owned());
    }

    /// The archive.
    ///
    /// # Panics
    /// When a file is 4 GiB or larger, which the format cannot say.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, node)) in self.nodes.iter().enumerate() {
            let name = path.strip_prefix("/").expect("paths are absolute").to_str().expect("plain names");
            let (mode, content): (u32, &[u8]) = match node {
                Node::Folder => (FOLDER | 0o755, &[]),
                Node::File { bytes, mode } => (REGULAR | mode, bytes),
                Node::Link(to) => (LINK | 0o777, to.as_bytes()),
            };
            entry(&mut out, inode + 1, mode, name, content);
        }
        entry(&mut out, 0, 0, "TRAILER!!!", &[]);
        out
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn entry(out: &mut Vec<u8>, inode: usize, mode: u32, name: &str, content: &[u8]) {
    let size = u32::try_from(content.len()).expect("files of a guest are small");
    let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
    let name_size = name.len() + 1;
    // magic, inode, mode, uid, gid, nlink, mtime, filesize, device (4 fields), namesize, check
    let header = format!(
        "070701{inode:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}{:08X}{:08X}{name_size:08X}{:08X}",
        0, 0, 0, 0, 0, 0, 0, 0
    );
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn find_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot list {}: {e}", dir.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            find_modules(&path, files);
        } else if path.extension().is_some_and(|e| e == "ko") {
            let name = path.file_stem().expect("a module has a name").to_string_lossy().replace('-', "_");
            files.insert(name, path);
        }
    }
}

/// The modules that a module says it needs: `depends=a,b` among the NUL-ended strings of its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")).collect()
}
