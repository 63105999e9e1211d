#!/bin/sh
# Runs a command, and when it fails, says at the very end what panicked, so that one need not search a long log for it.
#
#   scripts/recap.sh COMMAND...
set -u
log=$(mktemp "${TMPDIR:-/tmp}/farshore-recap.XXXXXX")
trap 'rm -f "$log"' EXIT
# The status of a command before a pipe is lost in sh, so it goes through a file.
{ "$@" 2>&1; echo $? >"$log.status"; } | tee "$log"
status=$(cat "$log.status")
rm -f "$log.status"
if [ "$status" -ne 0 ]; then
    echo
    echo "failed: $*"
    grep -A 4 'panicked at' "$log" | cut -c 1-400 | head -n 60
fi
exit "$status"
