//! The house rule: who may use whom, and where `unsafe` may stand. Read from `cargo metadata` and from the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use farshore_tests::deps::repository;

/// Each package of the workspace, its folder, and which of the others it may use: the table of the design.
const TABLE: [(&str, &str, &[&str]); 8] = [
    ("farshore-changelog", "changelog", &[]),
    ("farshore-capture", "capture", &["farshore-changelog"]),
    ("farshore-vault", "vault", &["farshore-changelog"]),
    ("farshore-shipper", "shipper", &["farshore-changelog", "farshore-vault"]),
    ("farshore-processor", "processor", &["farshore-changelog", "farshore-vault"]),
    ("farshore", "tools", ALL),
    ("farshore-tests", "tests", ALL_AND_THE_TOOLS),
    ("farshore-benches", "benches", ALL_AND_THE_TOOLS),
];

/// Every stage.
const ALL: &[&str] =
    &["farshore-changelog", "farshore-capture", "farshore-vault", "farshore-shipper", "farshore-processor"];

/// The simulator also drives the agent's own decisions, as the tools have them.
const ALL_AND_THE_TOOLS: &[&str] =
    &["farshore-changelog", "farshore-capture", "farshore-vault", "farshore-shipper", "farshore-processor", "farshore"];

/// What the language of the stages and the path of the data must not bring along: runtimes, sockets over the network.
const NO_RUNTIME_IN: [&str; 2] = ["farshore-changelog", "farshore-capture"];
const RUNTIMES: [&str; 6] = ["tokio", "async-std", "smol", "hyper", "reqwest", "object_store"];

/// The only files in which `unsafe` may stand: mappings, the kernel's interfaces, buffers that the kernel writes, the memory in which
/// the ring is proved, and a test's allocator that counts.
const UNSAFE_FILES: [&str; 10] = [
    "capture/src/disk/direct.rs",
    "capture/src/engine/buffer.rs",
    "capture/src/engine/fd.rs",
    "capture/src/engine/uring.rs",
    "capture/src/lane/accepted.rs",
    "capture/tests/allocations/counted.rs",
    "changelog/src/ring/futex.rs",
    "changelog/src/ring/mapping.rs",
    "changelog/src/ring/proof/memory.rs",
    "processor/src/undo/published.rs",
];

fn metadata() -> Metadata {
    // Crates for other platforms are not downloaded by a build.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--locked", "--offline", "--filter-platform", &platform].map(str::to_owned).to_vec();
    let mut command = MetadataCommand::new();
    command.manifest_path(repository().join("Cargo.toml")).other_options(options);
    command.exec().expect("cargo metadata knows the workspace")
}

#[test]
fn packages_use_one_another_as_the_table_says() {
    let metadata = metadata();
    let packages: BTreeMap<&str, _> = metadata.workspace_packages().into_iter().map(|p| (p.name.as_str(), p)).collect();
    let ours: BTreeSet<&str> = packages.keys().copied().collect();
    assert_eq!(ours, TABLE.iter().map(|(name, _, _)| *name).collect(), "the table lists every package");
    for (name, folder, may_use) in TABLE {
        let package = packages[name];
        assert_eq!(package.manifest_path, repository().join(folder).join("Cargo.toml").to_str().expect("a plain path"));
        for dependency in package.dependencies.iter().filter(|d| ours.contains(d.name.as_str())) {
            assert!(
                may_use.contains(&dependency.name.as_str()),
                "{name} uses {} ({:?}), which the table does not allow",
                dependency.name,
                dependency.kind
            );
        }
    }
}

/// Everything that a package is built with, its own development dependencies left out.
fn closure<'a>(metadata: &'a Metadata, package: &str) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&PackageId, _> =
        metadata.resolve.as_ref().expect("a resolved graph").nodes.iter().map(|n| (&n.id, n)).collect();
    let root = metadata.packages.iter().find(|p| p.name.as_str() == package).expect("a package of the workspace");
    let mut open = vec![&root.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let built_with = dependency.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
            if built_with && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    metadata.packages.iter().filter(|p| seen.contains(&p.id)).map(|p| p.name.as_str()).collect()
}

#[test]
fn the_path_of_the_data_has_no_runtime_and_no_network() {
    let metadata = metadata();
    for package in NO_RUNTIME_IN {
        let used = closure(&metadata, package);
        assert!(used.contains("blake3") || used.contains("nix"), "the graph was read: {used:?}");
        for runtime in RUNTIMES {
            assert!(!used.contains(runtime), "{package} is built with {runtime}");
        }
    }
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for (name, folder, _) in TABLE {
        let manifest = std::fs::read_to_string(repository().join(folder).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not take the workspace's lints");
    }
    let workspace = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"deny\""));
    assert!(workspace.contains("undocumented_unsafe_blocks = \"deny\""));
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                rust_files(&path, files);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn unsafe_stands_only_in_the_files_that_need_it() {
    let mut files = Vec::new();
    for (_, folder, _) in TABLE {
        rust_files(&repository().join(folder), &mut files);
    }
    assert!(files.len() > TABLE.len());
    let mut found = BTreeSet::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        // Not as one word in this file, so that it does not find itself.
        let allows = concat!("allow(", "unsafe_code)");
        if text.contains(allows) {
            let top = text.lines().find(|l| !l.starts_with("//!") && !l.is_empty());
            let name = file.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned();
            assert!(
                top.is_some_and(|l| l.starts_with("#![") && l.contains("unsafe_code")),
                "{name}: at the top, for the file"
            );
            assert_eq!(text.matches(allows).count(), 1, "{name}: once");
            found.insert(name);
        }
    }
    assert_eq!(found, UNSAFE_FILES.iter().map(|f| (*f).to_owned()).collect(), "files that allow unsafe code");
}

#[test]
fn only_tests_put_a_simulated_time_or_medium_under_a_thread() {
    let mut files = Vec::new();
    for (_, folder, _) in TABLE.iter().filter(|(name, _, _)| !["farshore-tests", "farshore-benches"].contains(name)) {
        rust_files(&repository().join(folder), &mut files);
    }
    let calls = |file: &PathBuf| {
        let name = file.to_str().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let shipped = text.split("#[cfg(test)]").next().unwrap();
        !name.contains("test") && shipped.lines().any(|l| l.contains("simulate(") && !l.contains("pub fn simulate("))
    };
    let found: Vec<_> = files.iter().filter(|file| calls(file)).collect();
    assert!(found.is_empty(), "shipped code never simulates: {found:?}");
}

#[test]
fn the_stages_change_files_through_the_one_medium() {
    /// The way of the data; the command line's own files (an export's, a socket's) are nobody's state.
    const STAGES: [&str; 4] = ["changelog", "capture", "shipper", "processor"];
    const CALLS: [&str; 13] = [
        ".write_all_at(",
        ".set_len(",
        ".sync_data()",
        ".sync_all()",
        "fs::rename(",
        "fs::remove_file(",
        "fs::create_dir",
        "fs::write(",
        " File::create(",
        ".create(true)",
        ".create_new(true)",
        ".truncate(true)",
        "fcntl::fallocate(",
    ];
    /// The medium itself; socket files, which are no state; the dirty map and the tap, which are being moved to it.
    const ELSEWHERE: [&str; 4] =
        ["changelog/src/medium.rs", "capture/src/listen.rs", "capture/src/regions.rs", "capture/src/engine"];
    let mut files = Vec::new();
    for folder in STAGES {
        rust_files(&repository().join(folder).join("src"), &mut files);
    }
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned();
        if name.contains("test") || ELSEWHERE.iter().any(|other| name.starts_with(other)) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let shipped = text.split("#[cfg(test)]").next().unwrap();
        found.extend(shipped.lines().filter(|l| CALLS.iter().any(|c| l.contains(c))).map(|l| format!("{name}: {l}")));
    }
    assert!(found.is_empty(), "these go past farshore_changelog::medium: {found:#?}");
}

#[test]
fn no_file_has_outgrown_its_room() {
    const LINES_MAX: usize = 500;
    let mut files = Vec::new();
    for (_, folder, _) in TABLE {
        rust_files(&repository().join(folder), &mut files);
    }
    let lines = |f: &PathBuf| std::fs::read_to_string(f).unwrap().lines().count();
    let large: Vec<_> = files.iter().map(|f| (f, lines(f))).filter(|(_, n)| *n > LINES_MAX).collect();
    assert!(large.is_empty(), "a file is one thing and rarely above 400 lines: {large:?}");
}
