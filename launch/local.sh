#!/usr/bin/env bash
# Run a recipe on the GPUs of this machine, without SLURM, with the settings in its file:
#     TRAIN_DATA=captions.csv launch/local.sh degla [FLAGS of open_clip_train]
set -euo pipefail
launch=$(dirname "${BASH_SOURCE[0]}")
recipe=${1:?name a recipe: degla, ce-clip or negclip}
[[ -f $launch/$recipe.slurm ]] || { echo "open_clip_ext: $recipe: no such recipe in $launch" >&2; exit 2; }
unset SLURM_JOB_ID
LAUNCHER=$launch/train.sh exec bash "$launch/$recipe.slurm" "${@:2}"
