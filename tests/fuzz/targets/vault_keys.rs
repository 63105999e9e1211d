//! Names in a vault, which anybody may have put there: no key of ours, or a key that is written exactly so.
#![no_main]

use farshore_vault::keys::{Key, group_of_prefix};
use libfuzzer_sys::fuzz_target;
use object_store::path::Path;

fuzz_target!(|text: &str| {
    if let Some(key) = Key::parse(text) {
        assert_eq!(key.to_string(), text);
        assert_eq!(key.path().as_ref(), text, "the store must not escape anything");
    }
    if let Ok(path) = Path::parse(text)
        && let Some(group) = group_of_prefix(&path)
    {
        assert_eq!(format!("groups/{group}"), path.as_ref());
    }
});
