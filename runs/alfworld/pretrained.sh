#!/usr/bin/env bash
# As run.sh, with a pretrained base model: runs/alfworld/pretrained.sh DIR [SEED …]   (default: seed 0). For a GPU.
# MODEL is SmolLM2-135M-Instruct by default (`make assets`). JOBS trainings, collections or evaluations run at a time, each
# with WORKERS processes for its games. Finished work in DIR is not repeated.
#
# Measured on an H200 beside six other runs, 16 processors, JOBS=8 WORKERS=3: games and demonstrations 45 s; SFT of 1,920
# demonstrations (1.7 million tokens) 2 min 10 s; 2,400 games in five processes 4 min; frozen layers and training of rejection
# sampling 45 s, DPO 45 s, OREO 4 min, at the same time; 50 s for eight evaluations of 100 games. Eleven minutes to the first
# table; the replies chosen by V (K = 2 to 5, two temperatures) are 34 evaluations more. Two cores need four days.
set -euo pipefail
out=${1:?the folder to run in} && shift
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-${STEPCREDIT_ASSETS:-$HOME/.cache/stepcredit}/smollm2}
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
stepcredit alfworld build --output_dir "$out/games" --train 480 --valid_seen 100 --valid_unseen 100
run() {
  python "$here/run.py" "$out/games" "$out" --pretrained "$model" --jobs "${JOBS:-4}" --workers "${WORKERS:-2}" "$@"
  mkdir -p "$here/pretrained" && cp "$out/results.json" "$out/cool.json" "$out/run.json" "$here/pretrained/"
  python "$here/../compare/page.py"
}
run --seeds ${@:-0} --widths
run --seeds ${@:-0}
