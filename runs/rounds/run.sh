#!/usr/bin/env bash
# Three rounds of OREO, rejection sampling and DPO from the same start on both embedded tasks: runs/rounds/run.sh DIR
# Finished stages are not repeated. Then writes the result files beside this script.
# PARALLEL=2 runs two of the 18 iterations at a time; SEEDS="0 1 2", TASKS="arithmetic chain" and METHODS="oreo rft dpo"
# choose among them. VARIANT=zero takes chain-zero.yaml, where a truncated response has a return of 0, and writes chain-zero;
# VARIANT=slow takes chain-slow.yaml, where OREO learns at a quarter of the rate.
set -euo pipefail
out=${1:?the folder to run in}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
declare -A sft_steps=([arithmetic]=250 [chain]=300)
for seed in ${SEEDS:-0 1 2}; do
  for task in ${TASKS:-arithmetic chain}; do
    python "$here/start.py" "$task" "$seed" "${sft_steps[$task]}" "$out/$task/start-seed$seed" >&2
    for method in ${METHODS:-oreo rft dpo}; do
      name=$task${VARIANT:+-$VARIANT}
      printf '%s\0' "stepcredit iterate --config $here/$name.yaml --method $method --seed $seed \
        --model $out/$task/start-seed$seed/policy --output_dir $out/$name/$method-seed$seed"
    done
  done
done | xargs -0 -P "${PARALLEL:-1}" -I{} bash -c '{} > /dev/null'
for task in ${TASKS:-arithmetic chain}; do
  python "$here/gather.py" "$out/$task${VARIANT:+-$VARIANT}" "$here/$task${VARIANT:+-$VARIANT}"
done
