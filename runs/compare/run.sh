#!/usr/bin/env bash
# The published comparison of one task: runs/compare/run.sh arithmetic|chain DIR
# Takes at most two hours on two cores, without the credit evaluation; finished runs are not repeated. Then copies the
# result files to runs/compare/TASK and regenerates the tables of docs/results.md.
set -euo pipefail
task=${1:?which task: arithmetic or chain} out=${2:?the folder to run in}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1
stepcredit compare --config "$here/../../recipes/compare-$task.yaml" --output_dir "$out" --jobs "${JOBS:-2}"
mkdir -p "$here/$task"
for file in results.json grid.json pairs.json localisation.json run.json; do
  cp "$out/$file" "$here/$task/$file"
done
python "$here/page.py"
