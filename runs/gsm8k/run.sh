#!/usr/bin/env bash
# Offline learning of a pretrained model on problems in words: runs/gsm8k/run.sh DIR [SIZE]
#
#   cpu   GSM-Symbolic's short problems with small numbers, the last 6 of SmolLM2's 30 layers: two cores, seven hours, or
#         a GPU, minutes (default)
#   math  MATH of levels 1 and 2, likewise: two cores, a day, or a GPU
#   gpu   all of GSM8K, all layers, 10 responses per prompt, every method, five seeds: a GPU, a day
#
# Finished work in DIR is not repeated: the same command resumes, in pieces of minutes. Results of finished runs are kept
# in SIZE/runs beside this script (pieces.py), and an empty DIR on another machine goes on from them. DATA is the folder
# of GSM8K's, SVAMP's and MATH's files, MODEL the pretrained model, SmolLM2-135M-Instruct by default (`make assets`);
# PARTS="start temperatures compare others search rounds errors" chooses among the parts, JOBS runs at a time.
set -euo pipefail
out=${1:?the folder to run in} size=${2:-cpu}
here=$(cd "$(dirname "$0")" && pwd)
data=${DATA:-$here/../../../shared/data} model=${MODEL:-${STEPCREDIT_ASSETS:-$HOME/.cache/stepcredit}/smollm2}
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TOKENIZERS_PARALLELISM=false
data=$(realpath "$data") model=$(realpath "$model")
mkdir -p "$out" && cd "$out"  # all names below are relative to it, so that results name no folder of one machine
has() { [[ " ${PARTS:-start temperatures compare others search rounds errors} " == *" $1 "* ]]; }

# Problems: demonstrations for the start (sft), training prompts, validation and test, and sets for transfer.
problems=problems name=gsm8k tokens=128 tested=300 transfer=""
if [ "$size" = math ]; then
  name=math tokens=192 tested=121
  [ -f "$problems/manifest.json" ] || python "$here/math_problems.py" "$problems" --data "$data"
else
  [ -f "$problems/manifest.json" ] || python "$here/problems.py" "$problems" --data "$data"
  transfer="--transfer $problems/svamp.jsonl $problems/gsm8k_short.jsonl"
fi
solutions=$problems/sft.jsonl split="--split train"
[ "$size" = cpu ] && split="--split train --limit 600"  # all 900 leave too little to learn: 52% right
if [ "$size" = gpu ]; then
  tokens=320 transfer="--transfer problems/svamp.jsonl" problems=$data solutions=$data split="--split train_without_validation"
fi
task="--task $name --prompt_style plain"

# The start: SFT of the pretrained model on worked solutions.
start=start/policy
if has start; then
  stepcredit collect $task $split --data "$solutions" --model solutions --output_dir solutions
  [ -f start/run.json ] || stepcredit train --config "$here/$size-start.yaml" --model "$model" \
    --episodes solutions --output_dir start --resume_from_checkpoint true
  for search in greedy sample; do
    stepcredit evaluate $task --data "$problems" --split validation --model "$start" --method sft --search $search \
      --max_new_tokens $tokens --batch_size 100 --output_dir start-validation
  done
  mkdir -p "$here/$size" && cp start-validation/results.json "$here/$size/start.json"
fi

# The start, sharpened by temperature alone: what a method must beat that only makes its policy surer.
if has temperatures; then
  for temperature in 0.2 0.4 0.6 0.8; do
    stepcredit evaluate $task --data "$problems" --split test --limit $tested --model "$start" --method sft --search sample \
      --temperature $temperature --max_new_tokens $tokens --batch_size 128 --dtype bfloat16 --output_dir temperatures
  done
  cp temperatures/results.json "$here/$size/temperatures.json"
fi

# Learning rates on a seed of their own, then the methods of the size on its seeds; then the others too, on one seed.
value_models=""
if has search; then value_models="oreo"; fi
if has errors; then value_models="oreo oreo-step dqo"; fi
pieces() { python "$here/pieces.py" "$1" . "$here/$size/runs" --value_models $value_models; }
compare() {
  published=$here/$size/$1 && shift
  pieces restore
  trap 'pieces keep' EXIT
  stepcredit compare --config "$here/$size.yaml" $task --data "$problems" --model "$start" $transfer \
    --output_dir compare --jobs "${JOBS:-2}" "$@"
  mkdir -p "$published"
  for file in results.json grid.json pairs.json run.json timings.json curves.json; do
    cp "compare/$file" "$published/$file"
  done
}
if has compare; then compare seeds; fi
if has others; then
  compare others --seeds 0 --methods rft dpo kto dqo oreo oreo-step oreo-response dro topr iql oapl
fi

# Search on 100 problems with the start and with OREO's policy, by OREO's value model, at counted cost.
if has search; then
  python "$here/../search/run.py" "$name" compare search --data "$problems" --prompt_style plain \
    --limit 100 --pool 16 --beams 1 3 5 --max_new_tokens $tokens --dtype bfloat16 --seeds 0 --policies sft oreo
  mkdir -p "$here/$size/search" && cp search/{results,run,timings,distinct}.json "$here/$size/search/"
fi

# Two rounds of collection and training, one seed.
if has rounds && [ "$size" = cpu ]; then
  for method in oreo rft; do
    stepcredit iterate --config "$here/rounds.yaml" $task --data "$problems" --model "$start" --method "$method" \
      --seed 0 --output_dir "rounds/gsm8k/$method-seed0"
  done
  python "$here/../rounds/gather.py" rounds/gsm8k "$here/$size/rounds"
fi

# Does the largest drop of V point at the first false equation of the start's own responses to test problems?
if has errors; then
  stepcredit collect $task --split test --data "$problems" --model "$start" --num_generations 4 --max_new_tokens $tokens \
    --limit $tested --output_dir responses
  python "$here/../credit/probes.py" --on own --model "$start" --episodes responses \
    --train_episodes compare/runs/sft-seed0/episodes --work_dir probes --output_dir "$here/$size/probes"
  for method in oreo oreo-step dqo; do
    folder=$(python "$here/../search/run.py" --folder_of "$method" "$name" compare search)
    python "$here/../credit/own_errors.py" --model "$start" --episodes responses --value_model "$folder/value" \
      --learned_policy "$folder/policy" --ref_model "$start" --train_episodes compare/runs/sft-seed0/episodes \
      --name "$method" --output_dir "$here/$size/errors"
  done
fi
python "$here/../compare/page.py"
