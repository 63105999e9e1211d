#!/bin/sh
# Instructions of each stage, a record: counted by valgrind, so the same on a busy machine and on an idle one.
#
#   benches/instructions.sh [STAGE...]       after: cargo build --release --package farshore-benches --bin instructions
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${INSTRUCTIONS_BIN:-"$root/target/release/instructions"}

# Instructions of so many times.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bin" "$1" "$2" 2>&1 >/dev/null |
        sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}

[ $# -gt 0 ] || set -- $("$bin" | cut -d ' ' -f 1)
printf '%-28s %14s\n' stage instructions
for stage in "$@"; do
    units=$("$bin" | sed -n "s/^$stage //p")
    [ -n "$units" ] || { echo "no stage $stage" >&2; exit 1; }
    # Whole segments and runs are much in one time; single records are little.
    few=$((units > 100 ? 2 : 200))
    many=$((few * 3))
    a=$(count "$stage" "$few")
    b=$(count "$stage" "$many")
    printf '%-28s %14s\n' "$stage" $(((b - a) / ((many - few) * units)))
done
