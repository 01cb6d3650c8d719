#!/usr/bin/env bash
# The quickstart on three seeds, as published: runs/quickstart/run.sh   (two to five minutes per seed on two cores)
# Writes results.json (accuracy) and value.json (quality of V) here; `stepcredit report runs/quickstart` plots them.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_WAIT_POLICY=PASSIVE
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for seed in 0 1 2; do
  .venv/bin/stepcredit quickstart --output_dir "$work/$seed" --seed "$seed"
done
.venv/bin/python runs/quickstart/gather.py "$work" runs/quickstart
