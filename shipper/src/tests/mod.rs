//! Whole shippers: a real ring, a folder or a store double as the vault.

mod announcing;
mod asked;
pub mod disk;
mod fencing;
mod in_flight;
mod kills;
mod long_outages;
mod outages;
mod refusals;
mod requests;
mod restarts;
mod sealing;
mod shipping;
mod simulated;
mod spool_trouble;
mod threads;
pub(crate) mod world;
