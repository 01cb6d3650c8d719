#!/usr/bin/env bash
# Offline learning of a pretrained model on problems in words: runs/gsm8k/run.sh DIR [SIZE]
#
#   cpu    GSM-Symbolic's short problems with small numbers, the last 6 of 30 layers: two cores, half a day, or a GPU,
#          ten minutes (default)
#   gpu    all of GSM8K and 10 responses per prompt, every method, five seeds: a GPU, a day
#
# Finished work in DIR is not repeated: the same command resumes, in pieces of minutes; a copy of DIR resumes on another
# machine. Problems come from the package reasoning-gym and from DATA, the folder of GSM8K's and SVAMP's files; MODEL is the
# pretrained model, SmolLM2-135M-Instruct by default (`make assets`).
set -euo pipefail
out=${1:?the folder to run in} size=${2:-cpu}
here=$(cd "$(dirname "$0")" && pwd)
model=${MODEL:-${STEPCREDIT_ASSETS:-$HOME/.cache/stepcredit}/smollm2}
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TOKENIZERS_PARALLELISM=false
task="--task gsm8k --prompt_style plain"

# Problems: demonstrations for the start (sft), training prompts, validation and test, and two sets for transfer.
problems=$out/problems
[ -f "$problems/manifest.json" ] || python "$here/problems.py" "$problems" --data "${DATA:-$here/../../../shared/data}"
transfer="$problems/svamp.jsonl $problems/gsm8k_short.jsonl"

# The start: SFT of the pretrained model on worked solutions.
stepcredit collect $task --data "$problems/sft.jsonl" --model solutions --output_dir "$out/solutions"
[ -f "$out/start/run.json" ] || stepcredit train --config "$here/$size-start.yaml" --model "$model" \
  --episodes "$out/solutions" --output_dir "$out/start" --resume_from_checkpoint true

# Learning rates on a seed of their own, then seven methods on three seeds; then the others too, on one seed.
compare() {
  name=$1 && shift
  stepcredit compare --config "$here/$size.yaml" $task --data "$problems" --model "$out/start/policy" \
    --transfer $transfer --output_dir "$out/compare" --jobs "${JOBS:-1}" "$@"
  mkdir -p "$here/$size/$name"
  for file in results.json grid.json pairs.json run.json timings.json curves.json; do
    cp "$out/compare/$file" "$here/$size/$name/$file"
  done
}
compare seeds
compare others --seeds 0 --methods rft dpo kto dqo oreo oreo-step oreo-response dro topr iql oapl

# Search on 100 problems with the start and with OREO's policy, by OREO's value model, at counted cost.
python "$here/../search/run.py" gsm8k "$out/compare" "$out/search" --data "$problems" --prompt_style plain \
  --limit 100 --pool 32 --max_new_tokens 128 --seeds 0 --policies sft oreo
mkdir -p "$here/$size/search" && cp "$out/search/results.json" "$out/search/run.json" "$here/$size/search/"
