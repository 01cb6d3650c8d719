#!/usr/bin/env bash
# As run.sh, with a pretrained base model: runs/alfworld/pretrained.sh DIR [SEED …]   (default: seed 0). For a GPU.
# MODEL is SmolLM2-135M-Instruct by default (`make assets`). After SFT and its games, JOBS trainings and evaluations run at
# a time (start NVIDIA's MPS for more than one). Finished work in DIR is not repeated.
#
# Measured on an H200 with other work on it, 16 processors: games and demonstrations 45 s; SFT of 1,920 demonstrations (1.7
# million tokens) 2 min 10 s; 2,400 games 4 min, 128 at a time in each of five processes (512 in one now); frozen layers and
# training of rejection sampling 45 s, of DPO 45 s, of OREO 4 min; 50 s for eight evaluations of 100 games at a time. Not
# measured: the evaluations of the methods (16) and the replies chosen by V (32 more). Two cores need four days.
set -euo pipefail
out=${1:?the folder to run in} && shift
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-${STEPCREDIT_ASSETS:-$HOME/.cache/stepcredit}/smollm2}
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
stepcredit alfworld build --output_dir "$out/games" --train 480 --valid_seen 100 --valid_unseen 100
run() {
  python "$here/run.py" "$out/games" "$out" --pretrained "$model" --jobs "${JOBS:-4}" "$@"
  mkdir -p "$here/pretrained" && cp "$out/results.json" "$out/cool.json" "$out/run.json" "$here/pretrained/"
  python "$here/../compare/page.py"
}
run --seeds ${@:-0} --widths
run --seeds ${@:-0}
