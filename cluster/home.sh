#!/bin/bash
# A whole home in one container. `up` returns once everything runs; the signal that stops the container stops the
# services in order.
trap 'soldiom down; exit 0' TERM INT
soldiom up || exit
while :; do sleep 5 & wait $!; done
