#!/bin/sh
# Shows that the simulator sees: each patch here breaks one guarantee (its name begins with it) in a copy of the sources, and a world
# must find it. Exits non-zero when one is not found, does not apply any more, or does not build.
#
#   tests/mutations/run.sh [PATCH...]        SEEDS=300: within so many worlds
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
seeds=${SEEDS:-300}
work=${MUTATIONS_DIR:-"$root/target/mutations"}
tree="$work/tree"
export CARGO_TARGET_DIR="$work/target"
[ $# -gt 0 ] || set -- "$here"/*.patch

rm -rf "$tree"
mkdir -p "$tree"
(cd "$root" && git ls-files -z | xargs -0 cp --parents -t "$tree")

failed=0
for patch in "$@"; do
    name=$(basename "$patch" .patch)
    log="$work/$name.log"
    if ! patch -d "$tree" -p1 --quiet <"$patch"; then
        echo "mutations: $name does not apply: write it anew for what the code is now"
        exit 1
    fi
    cd "$tree"
    if ! cargo test --locked --package farshore-tests --test simulation --no-run >"$log" 2>&1; then
        echo "mutations: $name does not build; see $log"
        failed=1
    elif FARSHORE_SIM_SEEDS="$seeds" cargo test --locked --package farshore-tests --test simulation -- --nocapture every_world >>"$log" 2>&1; then
        echo "mutations: $name was NOT FOUND in $seeds worlds; see $log"
        failed=1
    elif found=$(grep -E '^seed [0-9]+: ' "$log" | grep -v ' lines, ' | head -n 1 | cut -c 1-240) && [ -n "$found" ]; then
        echo "mutations: $name: found by $found"
    else
        echo "mutations: $name ended without naming a world; see $log"
        failed=1
    fi
    cd "$root"
    patch -d "$tree" -p1 --quiet -R <"$patch"
done
exit "$failed"
