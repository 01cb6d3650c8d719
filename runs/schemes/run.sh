#!/usr/bin/env bash
# Quality of the cheaper schemes on both embedded tasks: runs/schemes/run.sh DIR
# About three hours of one core; finished runs are not repeated. Then copies the result files beside this script.
set -euo pipefail
out=${1:?the folder to run in}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1
for task in arithmetic chain; do
  stepcredit compare --config "$here/$task.yaml" --output_dir "$out/$task" --jobs "${JOBS:-1}"
  mkdir -p "$here/$task"
  for file in results.json grid.json pairs.json run.json timings.json; do
    cp "$out/$task/$file" "$here/$task/$file"
  done
done
