#!/usr/bin/env bash
# Usage: runs/credit/run.sh DATA_DIR MODEL_DIR cpu|gpu [EPISODES VALUE_MODEL POLICY REFERENCE]
# Every line goes on where it stopped; costs are in the scripts.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
data=$1 model=$2 size=$3
python=${PYTHON:-.venv/bin/python}
"$python" runs/credit/llama2.py --data "$data" --model "$model" --size "$size"
"$python" runs/credit/mistakes.py --data "$data" --model "$model" --size "$size"
"$python" runs/credit/probes.py --data "$data" --model "$model" --on mistakes llama2 --questions 200 --test_questions 120
if [ $# -ge 7 ]; then
  "$python" runs/credit/own_errors.py --model "$model" --size "$size" \
    --episodes "$4" --value_model "$5" --learned_policy "$6" --ref_model "$7"
fi
