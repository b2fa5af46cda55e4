#!/bin/sh
# Every order event so far, one JSON line each: sh orders.sh [bootstrap]. Without -e it goes on for ever.
exec kcat -C -q -b "${1:-127.0.0.1:18092}" -t orders.events.v1 -o beginning -e -J
