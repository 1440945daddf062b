#!/usr/bin/env bash
# Fine-tune with DeGLA on the GPUs of this machine. Edit the block, or set its variables from outside.
set -euo pipefail

: "${MODEL:=ViT-B-32-quickgelu}"           # -quickgelu: OpenAI's weights need it
: "${PRETRAINED:=openai}"                  # a tag or a checkpoint file
: "${TRAIN_DATA:?set TRAIN_DATA to a CSV with the columns filepath, title and negatives}"
: "${CSV_SEPARATOR:=,}"
: "${LOSS:=degla}"
: "${LOSS_CFG:=distill_weight=0.005}"      # at least one: an interpreter without the plugin refuses it
: "${NAME:=$LOSS}"                         # the same name resumes
: "${LOGS:=logs}"
: "${GPUS:=$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}"
: "${BATCH:=$((256 / GPUS))}"              # per GPU; the paper's global batch is 256
: "${EPOCHS:=5}" "${LR:=1e-6}" "${WD:=0.1}" "${WARMUP:=50}" "${WORKERS:=8}"

open-clip-ext doctor

# shellcheck disable=SC2086  # LOSS_CFG is a list of KEY=VALUE
exec torchrun --standalone --nproc-per-node "$GPUS" -m -- open_clip_train.main \
    --model "$MODEL" --pretrained "$PRETRAINED" \
    --dataset-type csv --train-data "$TRAIN_DATA" --csv-separator "$CSV_SEPARATOR" \
    --loss "$LOSS" --loss-cfg $LOSS_CFG \
    --batch-size "$BATCH" --epochs "$EPOCHS" --lr "$LR" --wd "$WD" --warmup "$WARMUP" --workers "$WORKERS" \
    --local-loss --gather-with-grad --precision amp --seed 42 \
    --logs "$LOGS" --name "$NAME" --save-most-recent --resume latest "$@"
