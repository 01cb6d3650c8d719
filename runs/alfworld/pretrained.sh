#!/usr/bin/env bash
# As run.sh, with a pretrained base model: runs/alfworld/pretrained.sh DIR [SEED …]   (default: seed 0). For a GPU.
# MODEL is SmolLM2-135M-Instruct by default (`make assets`). Finished work in DIR is not repeated.
#
# Plan, not run yet: 480 games × 4 demonstrations (about 1.9 million tokens, of which 0.5 are actions) for SFT, 2,400 games
# played at up to 16 turns for each seed, and 1, 3 and 2 passes of DPO, rejection sampling and OREO over them, some 2 million
# tokens a pass. SmolLM2 needs 0.8 GFLOP per token of SFT and 1.7 of OREO: 20 PFLOP a seed, some twenty minutes of an H100
# at the rate that was measured for short responses (15 TFLOP/s), beside half an hour of play. Two cores need four days.
set -euo pipefail
out=${1:?the folder to run in} && shift
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-${STEPCREDIT_ASSETS:-$HOME/.cache/stepcredit}/smollm2}
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
stepcredit alfworld build --output_dir "$out/games" --train 480 --valid_seen 100 --valid_unseen 100
python "$here/run.py" "$out/games" "$out" --pretrained "$model" --seeds ${@:-0}
mkdir -p "$here/pretrained" && cp "$out/results.json" "$out/cool.json" "$out/run.json" "$here/pretrained/"
