# The one door: the same recipes for people and for CI.
#
#   make demo      watch a disk being protected, on this machine, in under a minute
#   make test      everything that must hold; installs what it needs and is missing (and says what)
#   make bench     beside qemu-nbd on this machine (PEERS="--rounds 5 --seconds 3"), then each stage by itself (STAGES="--only replay"),
#                  then how cost grows (GROWTH="--only groups"), the instructions of each (valgrind), and micro benchmarks; builds
#                  for minutes, wants root
#                  (it drops the page cache) and takes 30 GB of disk while it runs
#   make lint      format, clippy, documentation, licences
#   make deny      licences, bans and sources of what is built in; a second
#   make advisories  known weaknesses of it, by RustSec's database, which is fetched
#   make fmt       formats
#   make fuzz      a minute of every fuzz target; FUZZ_SECONDS=600 make fuzz for more
#   make simulate  worlds of the simulator: SEEDS=10000 FROM=1 make simulate; SEED=7 make simulate repeats one
#   make mutations patches that break one guarantee each, in a copy: the simulator must find every one
#   make loom      the ring's memory order, tried by a model checker; make loom-weakened shows that it needs its orderings
#   make tsan      the ring's tests under ThreadSanitizer
#   make nightly   the tests in a release build, and long fuzzing

CARGO ?= cargo
FUZZ_SECONDS ?= 60
NIGHTLY_FUZZ_SECONDS ?= 3600
# Tests with real faults do a few rounds in `make test` and these many at night.
NIGHTLY_ROUNDS ?= FARSHORE_KILL_ROUNDS=200 FARSHORE_POWER_CUTS=20 FARSHORE_HUGE_COPIES=2 FARSHORE_STRESS_OPERATIONS=200000 FARSHORE_CHURN_MINUTES=30 FARSHORE_ASLEEP_SECONDS=240

# For the comparison with peers: --rounds, --seconds, --dir, --results. For the stages and growth: --rounds, --only, --dir, --results.
PEERS ?=
STAGES ?=
GROWTH ?=

.PHONY: demo test test-stages test-across deps bench lint deny advisories fmt fuzz nightly simulate mutations loom loom-weakened tsan

demo:
	$(CARGO) run --release --package farshore -- demo

test: deps
	$(CARGO) build --workspace --locked
	$(MAKE) deny test-stages loom test-across fuzz

# Each stage by itself.
test-stages:
	scripts/recap.sh $(CARGO) test --workspace --locked --exclude farshore-tests

# The ring over loom's atomics, in a folder of its own: the flag would build everything else anew.
LOOM = RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(CURDIR)/target/loom $(CARGO) test --locked --package farshore-changelog --lib

loom:
	$(LOOM) ring::proof

# Each ordering made weaker, one at a time: a model must fail.
loom-weakened:
	$(LOOM) ring::proof::weakened -- --include-ignored --nocapture

# The ring under ThreadSanitizer. It is an unstable flag of the compiler, and its run-time library comes with the stable one:
# RUSTC_BOOTSTRAP lets the stable compiler take the flag. The standard library is not built with it, hence the second flag and the
# suppressions. One test at a time, so that the harness starts no threads.
TSAN_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')

tsan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" CARGO_TARGET_DIR=$(CURDIR)/target/tsan \
		TSAN_OPTIONS="suppressions=$(CURDIR)/scripts/tsan.supp" \
		$(CARGO) test --locked --target $(TSAN_TARGET) --package farshore-changelog --lib ring:: -- --test-threads=1

# Across the stages, with the binary that `cargo build` made: one test program after the other, two tests at a time (an
# emulated guest and farshore take a core each).
test-across: deps
	$(CARGO) build --locked --package farshore
	scripts/recap.sh $(CARGO) test --locked --package farshore-tests -- --test-threads=2 --show-output

deps:
	scripts/install-test-deps.sh

bench: deps
	$(CARGO) build --release --locked --package farshore --package farshore-benches --bins
	target/release/peers $(PEERS)
	target/release/stages $(STAGES)
	target/release/growth $(GROWTH)
	benches/instructions.sh
	$(CARGO) bench --locked --package farshore-benches

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	$(MAKE) deny

deny:
	scripts/cargo-deny.sh check --hide-inclusion-graph licenses bans sources

# By itself, because the database is a network service of its own: a check that fails for want of it says nothing about this code.
advisories:
	scripts/cargo-deny.sh check advisories

fmt:
	$(CARGO) fmt --all

fuzz:
	tests/fuzz/run.sh $(FUZZ_SECONDS)

# Seeds of a simulation, and where they begin.
SEEDS ?= 300
FROM ?= 1

simulate:
	FARSHORE_SIM_FROM=$(FROM) FARSHORE_SIM_SEEDS=$(SEEDS) $(if $(SEED),FARSHORE_SIM_SEED=$(SEED)) \
		$(CARGO) test --locked --package farshore-tests --test simulation -- --nocapture every_world

mutations: deps
	tests/mutations/run.sh

nightly: deps
	$(MAKE) simulate SEEDS=10000
	$(MAKE) mutations
	$(MAKE) loom-weakened tsan
	$(CARGO) build --workspace --release --locked
	FARSHORE_BIN=$(CURDIR)/target/release/farshore $(NIGHTLY_ROUNDS) $(CARGO) test --release --workspace --locked -- --test-threads=2
	$(MAKE) fuzz FUZZ_SECONDS=$(NIGHTLY_FUZZ_SECONDS)
