#!/bin/sh
# Stands before rustc while the fuzz targets are built: farshore's own crates get coverage counters and AddressSanitizer, the
# libraries under them are built as they are, which takes a fraction of the time.
set -eu
case " $* " in
*" --crate-name farshore "* | *" --crate-name farshore_"* | *" --crate-name "*" targets/"*)
    set -- "$@" -Zsanitizer=address -Cpasses=sancov-module
    for arg in level=4 inline-8bit-counters pc-table trace-compares; do
        set -- "$@" "-Cllvm-args=-sanitizer-coverage-$arg"
    done
    ;;
esac
exec "$@"
