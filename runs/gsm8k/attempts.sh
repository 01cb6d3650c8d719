#!/usr/bin/env bash
# More updates, other rates and a slower V, on the tuning seed: runs/gsm8k/attempts.sh DIR
#
# DIR is the folder of run.sh, once its comparison has sampled the tuning seed (100). Every attempt makes 96 updates on the
# same 2,048 responses and is measured on the validation problems, greedily and by four samples each; 25 minutes of one core,
# rejection sampling 14. An attempt that is there is not repeated, and one that was stopped goes on.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
cd "${1:?the folder that run.sh ran in}"
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
seed=compare/runs/sft-seed100

attempt() {
  name=$1 out=attempts/$1 published=$here/cpu/attempts/$1 && shift
  [ -f "$published/results.json" ] && return
  stepcredit train "$@" --model $seed/policy --episodes $seed/episodes --activation_cache $seed/activations \
    --output_dir "$out" --max_steps 96 --train_layers 6 --share_prompts true --per_device_train_batch_size 32 \
    --gradient_accumulation_steps 2 --max_length 256 --seed 100 --logging_steps 4 --save_strategy steps --save_steps 16 \
    --save_total_limit 1
  for search in "sample --num_generations 4" greedy; do
    stepcredit evaluate --task gsm8k --prompt_style plain --data problems --split validation --model "$out/policy" \
      --method "$name" --search $search --max_new_tokens 128 --batch_size 128 --output_dir "$out/evaluation"
  done
  mkdir -p "$published"
  cp "$out/evaluation/results.json" "$out/curves.json" "$published/"
}

attempt rft-1e-4 --method rft --learning_rate 1e-4
for rate in 1e-4 3e-4 1e-3; do
  attempt oreo-$rate --method oreo --learning_rate $rate --value_learning_rate 3e-4 --value_warmup_steps 24
done
attempt oreo-1e-4-slow-value --method oreo --learning_rate 1e-4 --value_learning_rate 1e-4 --value_warmup_steps 32
python "$here/../compare/page.py"
