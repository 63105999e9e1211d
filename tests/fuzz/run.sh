#!/bin/sh
# Builds the fuzz targets and runs each for a while, two at a time. Exits non-zero when one of them crashes, passes its memory
# limit or hangs; what made it do so is left in artifacts/<target>/.
#
#   tests/fuzz/run.sh SECONDS_PER_TARGET [TARGET...]
#
# It runs on the stable toolchain: the coverage pass is asked for directly, and RUSTC_BOOTSTRAP=1 only opens the flag of
# AddressSanitizer, whose runtime comes with the toolchain. libFuzzer is built from the sources in the libfuzzer-sys crate.
set -eu

seconds=${1:?usage: tests/fuzz/run.sh SECONDS_PER_TARGET [TARGET...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
targets=${*:-segment undo ring nbd nbd_client dirty_map position points overlay hashes vault_objects vault_keys notes control config}

if ! command -v c++ >/dev/null; then
    echo "fuzz: installing g++, which builds libFuzzer"
    apt-get install -y --no-install-recommends g++ >/dev/null
fi

triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR="$here/target"
export RUSTC_WRAPPER="$here/rustc.sh"
echo "fuzz: building"
cargo build --locked --quiet --release --target "$triple" --bins

# Scratch files belong on tmpfs; the fuzzer's crashes leave them behind, so they have a folder that is removed.
scratch=$(mktemp -d /dev/shm/farshore-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

run() {
    target=$1
    found="$CARGO_TARGET_DIR/corpus/$target"
    artifacts="$here/artifacts/$target"
    log="$CARGO_TARGET_DIR/$target.log"
    mkdir -p "$found" "$artifacts" "$scratch/$target"
    # detect_leaks: the leak check needs ptrace, which containers refuse.
    if TMPDIR="$scratch/$target" ASAN_OPTIONS=detect_leaks=0 "$CARGO_TARGET_DIR/$triple/release/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$artifacts/" "$found" "corpus/$target" >"$log" 2>&1; then
        executed=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
        covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
        echo "fuzz: $target: $executed inputs, $covered edges, no crash"
    else
        echo "fuzz: $target FAILED; the input is in $artifacts, the log is $log"
        tail -n 40 "$log"
        return 1
    fi
}

failed=0
set -- $targets
while [ $# -gt 0 ]; do
    run "$1" & first=$!
    second=
    if [ $# -gt 1 ]; then
        run "$2" & second=$!
        shift
    fi
    shift
    wait "$first" || failed=1
    [ -z "$second" ] || wait "$second" || failed=1
done
exit "$failed"
