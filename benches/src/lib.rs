//! What the benchmarks share: [`load`] asks something of a server, [`group`] sets one of ours up. Micro benchmarks lie in `benches/`,
//! over what [`micro`] makes; the comparison with peers and the measurements of the stages in `src/bin/`; `make bench` runs them all.

pub mod group;
pub mod load;
pub mod micro;
