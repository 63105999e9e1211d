//! Micro benchmarks of the stages; each lies in `benches/`, and `make bench` runs them all.
