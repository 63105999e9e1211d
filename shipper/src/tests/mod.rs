//! Whole shippers: a real ring, a folder or a store double as the vault.

mod fencing;
mod outages;
mod restarts;
mod sealing;
mod shipping;
mod world;
