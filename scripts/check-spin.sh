#!/usr/bin/env bash
# Explores all states of the block manager's model with Spin (apt-get install spin), then shows that seeded bugs are found.
# Usage: scripts/check-spin.sh [SEQUENCES [BLOCKS]]   Prints "N passed, N failed".
set -euo pipefail
model=$(cd "$(dirname "$0")/.." && pwd)/test/models-checking/block-manager.pml
sequences=${1:-4}
blocks=${2:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
passed=0
failed=0

# explore NAME DEFINE...: runs the verifier, whose report is then in $work/NAME
explore() {
  local name=$1
  shift
  spin -a -DSEQUENCES="$sequences" -DBLOCKS="$blocks" "$@" "$model"
  gcc -O2 -w -DSAFETY -DCOLLAPSE -DMEMLIM=4096 pan.c -o "pan-$name"
  "./pan-$name" -m2000000 >"$name" || true
}

# The search was complete: no error, and neither memory nor depth ran out.
explore model
if grep -q 'errors: 0' model && ! grep -qE 'search depth too small|out of memory|Search not completed' model; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  cat model
fi
states=$(grep -m1 'states, stored' model | awk '{print $1}')
echo "block manager, $sequences sequences x $blocks blocks: $states states"

for bug in NO_COPY LEAK NO_HOLD FREE_IN_FLIGHT; do
  explore "$bug" "-DBUG_$bug"
  if grep -q 'errors: 1' "$bug"; then
    passed=$((passed + 1))
    echo "seeded bug $bug: found"
  else
    failed=$((failed + 1))
    echo "seeded bug $bug: NOT found"
  fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
