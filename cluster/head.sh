#!/bin/bash
# The head of a cluster: runs the command that is given, which starts Ray and stays (`ray start --head --block ...`),
# and puts the API on it once everything that it needs answers. Ends when Ray ends, so that the container starts anew.
"$@" &
ray=$!
trap 'kill -TERM $ray; wait $ray; exit 0' TERM INT
until soldiom up; do
  kill -0 $ray 2>/dev/null || exit 1
  sleep 5 & wait $!
done
wait $ray
