#!/usr/bin/env bash
# Offline learning on built ALFWorld games: runs/alfworld/run.sh DIR [SEED …]   (default: seeds 0 1 2)
# Needs the extra. Games, demonstrations, policies and episodes stay in DIR; finished work is not done again, so a run
# that was stopped, or one more seed, is the same command. All seeds start from the policy in started/, which start.py
# made in about forty minutes of two cores (`run.py … --start ''` makes it anew). A seed takes forty minutes of two cores.
set -euo pipefail
out=${1:?where to run it} && shift
here=$(cd "$(dirname "$0")" && pwd)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
stepcredit alfworld build --output_dir "$out/games" --train 480 --valid_seen 100 --valid_unseen 100
python "$here/run.py" "$out/games" "$out" --seeds ${@:-0 1 2}
python "$here/turns.py" "$out"
cp "$out/results.json" "$out/cool.json" "$out/run.json" "$out/turns.json" "$here/"
python "$here/../compare/page.py"
