#!/bin/sh
# Runs the given command, and ends with 143 where it ended well after SIGTERM. A Job takes exit code 0 for
# "this index is done" also when the pod was evicted (kubernetes/kubernetes#118310), and would never start
# that actor again.
child=
stopped=
trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child"' TERM INT
"$@" &
child=$!
wait "$child"
code=$?
if [ -n "$stopped" ]; then
  # The first wait ended with the signal, this one ends with the command.
  wait "$child"
  code=$?
  [ "$code" -ne 0 ] || code=143
fi
exit "$code"
