#!/usr/bin/env bash
# Other ways to fit V, on the tuning seed: runs/gsm8k/values.sh DIR [NAME …]   (default: all four)
#
# DIR is the folder of run.sh, once its comparison has sampled the tuning seed (100). OREO as in cpu.yaml, at the rate that
# tuning chose; V by squared loss, as a categorical distribution, and with four updates for each of the policy; and eight updates
# more, so that the policy has as many as where no V learns alone. A quarter of an hour of one core each, four updates of V
# half an hour. One that is there is not repeated, and one that was stopped goes on.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
cd "${1:?the folder that run.sh ran in}" && shift
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
seed=compare/runs/sft-seed100

fitted() {
  out=values/$1 published=$here/cpu/values/$1 && shift
  [ -f "$published/results.json" ] && return
  stepcredit train --method oreo --model $seed/policy --episodes $seed/episodes --activation_cache $seed/activations \
    --output_dir "$out" --max_steps 32 --learning_rate 2e-5 --value_learning_rate 3e-4 --value_warmup_steps 8 \
    --train_layers 6 --share_prompts true --per_device_train_batch_size 32 --gradient_accumulation_steps 2 --max_length 256 \
    --bf16 true --seed 100 --logging_steps 4 --save_strategy steps --save_steps 8 --save_total_limit 1 \
    --resume_from_checkpoint true "$@"
  for search in greedy sample; do
    stepcredit evaluate --task gsm8k --prompt_style plain --data problems --split validation --model "$out/policy" \
      --method oreo --search $search --max_new_tokens 128 --batch_size 128 --dtype bfloat16 --output_dir "$out/evaluation"
  done
  mkdir -p "$published"
  cp "$out/evaluation/results.json" "$out/curves.json" "$published/"
}

for name in ${@:-squared categorical four-updates longer}; do
  case $name in
    squared) fitted $name ;;
    categorical) fitted $name --value_loss categorical --value_range 0 1 ;;
    four-updates) fitted $name --value_updates_per_step 4 ;;
    longer) fitted $name --max_steps 40 ;;
  esac
done
python "$here/../compare/page.py"
