#!/usr/bin/env bash
# Other ways to fit V, on the tuning seed: runs/gsm8k/values.sh DIR
#
# DIR is the folder of run.sh, once its comparison has sampled the tuning seed (100). OREO as in cpu.yaml, at the rate that
# tuning chose; V by squared loss, as a categorical distribution, and with four updates for each of the policy; and eight
# updates more, so that the policy has as many as in methods without V. A quarter of an hour of one core each, four updates
# of V half an hour.
source "$(dirname "$0")/single_run.sh"
cd "${1:?the folder that run.sh ran in}"

fitted() {
  single_run "values/$1" oreo 1 bfloat16 --method oreo --learning_rate 2e-5 --value_learning_rate 3e-4 \
    --value_warmup_steps 8 --bf16 true --save_steps 8 "${@:2}"
}

fitted squared --max_steps 32
fitted categorical --max_steps 32 --value_loss categorical --value_range 0 1
fitted four-updates --max_steps 32 --value_updates_per_step 4
fitted longer --max_steps 40
python "$here/../compare/page.py"
