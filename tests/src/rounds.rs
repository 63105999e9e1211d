//! How often a test repeats what it does: a few times in `make test`, many times in `make nightly`, which says so in the
//! environment.

use farshore_changelog::clock;

use crate::pattern::Rng;

/// The number in the environment variable `name`, else `usual`.
///
/// # Panics
/// When it is set to something else than a number.
#[must_use]
pub fn count(name: &str, usual: u32) -> u32 {
    let Some(text) = std::env::var_os(name) else { return usual };
    let number = text.to_str().and_then(|t| t.parse().ok());
    number.unwrap_or_else(|| panic!("{name} must be a number, not {text:?}"))
}

/// Random numbers that differ from run to run, as the moments of real processes do; `FARSHORE_TEST_SEED` repeats a run's
/// choices.
///
/// # Panics
/// When the variable is set to something else than a number.
#[must_use]
pub fn chance() -> Rng {
    let seed = match std::env::var("FARSHORE_TEST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("FARSHORE_TEST_SEED must be a number, not {text:?}")),
        Err(_) => u64::from_le_bytes(clock::nonce()[..8].try_into().expect("eight bytes")) % 1_000_000,
    };
    println!("the same choices again: FARSHORE_TEST_SEED={seed}");
    Rng::new(seed)
}
