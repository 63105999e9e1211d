//! What the benchmarks share. Micro benchmarks lie in `benches/`; the comparison with peers, the measurements of the stages and how
//! cost grows are programs in `src/bin/`. `make bench` runs them all.
//!
//! - [`load`]: asks something of a server, by fio
//! - [`group`]: sets one of our groups up
//! - [`micro`]: what the micro benchmarks work on
//! - [`process`]: a process that is measured
//! - [`work`]: content, an epoch and a log of it, for a stage by itself
//! - [`shipping`]: a full ring through a shipper of one thread
//! - [`machine`]: what it is measured on
//! - [`report`]: figures as a table and as JSON

pub mod group;
pub mod load;
pub mod machine;
pub mod micro;
pub mod process;
pub mod report;
pub mod shipping;
pub mod work;
