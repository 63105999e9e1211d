//! `docs/durability.md` names a test for each thing it says: every test that it names is there.

use std::collections::BTreeSet;
use std::path::Path;

use farshore_tests::deps::repository;

/// A test's name is a sentence: it has at least so many joints. Keys of the configuration have fewer.
const JOINTS_MIN: usize = 3;

fn rust_sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_sources(&path, text);
        } else if name.ends_with(".rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = std::fs::read_to_string(repository().join("docs/durability.md")).unwrap();
    let is_name = |word: &&str| {
        let letters = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        letters && word.matches('_').count() >= JOINTS_MIN
    };
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(named.len() > 20, "{named:?}");
    let mut sources = String::new();
    rust_sources(&repository(), &mut sources);
    // A proptest's arguments follow at once, as those of any function do.
    let missing: Vec<&&str> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "the page names tests that are not there: {missing:?}");
}
