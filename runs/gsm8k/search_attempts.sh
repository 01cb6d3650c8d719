#!/usr/bin/env bash
# Other guides for the beam, on the same 100 problems with the start's policy: runs/gsm8k/search_attempts.sh DIR
#
# DIR is the folder of run.sh, once its parts compare and search are there: V of OREO at step level and of DQO in place of
# OREO's, and OREO's at a lower temperature, where responses differ less. A search with three beams takes 7 minutes of one
# core. What is there is not repeated.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
cd "${1:?the folder that run.sh ran in}"
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

attempt() { # method whose V guides, and what else
  value=compare/runs/$1-seed0-lr2e-05-test/value name=$1 && shift
  stepcredit evaluate --task gsm8k --prompt_style plain --data problems --split test --limit 100 --model start/policy \
    --value_model "$value" --method "$name" --max_new_tokens 128 --batch_size 128 --dtype bfloat16 \
    --output_dir search-attempts "$@"
}
attempt oreo --search sample --temperature 0.4
attempt oreo --search beam --width 3 --temperature 0.4
attempt oreo-step --search beam --width 3
attempt dqo --search beam --width 3
mkdir -p "$here/cpu/search-attempts" && cp search-attempts/results.json "$here/cpu/search-attempts/"
python "$here/../compare/page.py"
