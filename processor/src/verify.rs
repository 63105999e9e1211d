//! `farshore verify`: reads everything again and proves it, and changes nothing.
//!
//! - [`report`]: what was read, and what was found
//! - [`vault`]: a group's epochs, segments and seals
//! - `to_source`: what lies in the vault for the source: requests, hashes
//! - [`target`]: a group's position, catalogue, undo journal, images and overlays

pub mod report;
pub mod target;
mod to_source;
pub mod vault;

pub use report::{Finding, Report, Severity};
pub use target::verify_target;
pub use vault::verify_vault;

#[cfg(test)]
mod tests;
