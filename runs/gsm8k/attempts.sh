#!/usr/bin/env bash
# More updates, other rates and a slower V, on the tuning seed: runs/gsm8k/attempts.sh DIR
#
# DIR is the folder of run.sh, once its comparison has sampled the tuning seed (100). Every attempt makes 96 updates on the
# same 2,048 responses and is measured on the validation problems, greedily and by four samples each; 25 minutes of one core,
# rejection sampling 14.
source "$(dirname "$0")/single_run.sh"
cd "${1:?the folder that run.sh ran in}"

attempt() {
  single_run "attempts/$1" "$1" 4 float32 --max_steps 96 --save_steps 16 "${@:2}"
}

attempt rft-1e-4 --method rft --learning_rate 1e-4
for rate in 1e-4 3e-4 1e-3; do
  attempt oreo-$rate --method oreo --learning_rate $rate --value_learning_rate 3e-4 --value_warmup_steps 24
done
attempt oreo-1e-4-slow-value --method oreo --learning_rate 1e-4 --value_learning_rate 1e-4 --value_warmup_steps 32
python "$here/../compare/page.py"
