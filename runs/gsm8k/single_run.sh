# Sourced by attempts.sh and values.sh: single runs on the tuning seed, kept in cpu/FOLDER once they are measured.
set -euo pipefail
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
seed=compare/runs/sft-seed100

# single_run FOLDER LABEL SAMPLES DTYPE FLAG…: train with these flags, then evaluate greedily and by so many samples of each
# validation problem, in this type. A run that is kept is not repeated, and one that was stopped goes on.
single_run() {
  local out=$1 published=$here/cpu/$1 label=$2 samples=$3 dtype=$4 && shift 4
  [ -f "$published/results.json" ] && return
  stepcredit train --model $seed/policy --episodes $seed/episodes --activation_cache $seed/activations \
    --output_dir "$out" --train_layers 6 --share_prompts true --per_device_train_batch_size 32 \
    --gradient_accumulation_steps 2 --max_length 256 --seed 100 --logging_steps 4 --save_strategy steps \
    --save_total_limit 1 "$@"
  for search in "sample --num_generations $samples" greedy; do
    stepcredit evaluate --task gsm8k --prompt_style plain --data problems --split validation --model "$out/policy" \
      --method "$label" --search $search --max_new_tokens 128 --batch_size 128 --dtype "$dtype" \
      --output_dir "$out/evaluation"
  done
  mkdir -p "$published"
  cp "$out/evaluation/results.json" "$out/curves.json" "$published/"
}
