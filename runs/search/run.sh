#!/usr/bin/env bash
# Search against sampling at equal cost on one task: runs/search/run.sh arithmetic|chain COMPARISON DIR
# COMPARISON is the output folder of runs/compare/run.sh TASK COMPARISON. Takes about half an hour on one core.
set -euo pipefail
task=${1:?which task: arithmetic or chain} comparison=${2:?the output folder of runs/compare/run.sh}
out=${3:?the folder to run in}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1
python "$here/run.py" "$task" "$comparison" "$out"
mkdir -p "$here/$task"
cp "$out/results.json" "$out/run.json" "$here/$task/"
python "$here/../compare/page.py"
