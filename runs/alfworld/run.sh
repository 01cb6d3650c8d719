#!/usr/bin/env bash
# Offline learning on built ALFWorld games: runs/alfworld/run.sh DIR [SEED …]   (default: seeds 0 1 2)
# Needs the extra `alfworld`. Games, demonstrations, policies and episodes stay in DIR, and finished work is not
# repeated: use the same command to resume a run or to add a seed. All seeds start from the base model in started/. It
# was trained by start.py in about forty minutes on two cores (`run.py … --start ''` trains a new one). A seed takes
# forty minutes on two cores.
set -euo pipefail
out=${1:?the folder to run in} && shift
here=$(cd "$(dirname "$0")" && pwd)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
stepcredit alfworld build --output_dir "$out/games" --train 480 --valid_seen 100 --valid_unseen 100
python "$here/run.py" "$out/games" "$out" --seeds ${@:-0 1 2}
python "$here/turns.py" "$out"
cp "$out/results.json" "$out/cool.json" "$out/run.json" "$out/turns.json" "$here/"
python "$here/../compare/page.py"
