#!/usr/bin/env bash
# Usage: runs/real_logs/run.sh DATA_DIR   (about 26 minutes on one core)
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_WAIT_POLICY=PASSIVE
.venv/bin/python runs/real_logs/run.py --data "$1" --seed 0
