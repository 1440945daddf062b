# shellcheck shell=bash
# MACCO, its text half (arXiv 2606.13288): src/config/MACCO_CLIP.yaml of hiker-lw/MACCO@97fbae1, COCO, on 1 GPU.
: "${COMPANIONS:=masked=1}"
: "${GLOBAL_BATCH:=256}" "${LR:=5e-7}" "${WD:=0.2}" "${WARMUP:=50}" "${EPOCHS:=5}"
: "${SEED:=0}"
