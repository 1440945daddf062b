#!/usr/bin/env bash
# Run a recipe of launch/settings on the GPUs of this machine, without SLURM:
#     TRAIN_DATA=captions.csv launch/local.sh degla [FLAGS of open_clip_train]
set -euo pipefail
launch=$(dirname "${BASH_SOURCE[0]}")
unset SLURM_JOB_ID
RECIPE=${1:-} LAUNCHER=$launch/train.sh exec bash "$launch/loss.slurm" "${@:2}"
