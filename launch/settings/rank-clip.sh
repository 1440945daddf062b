# shellcheck shell=bash
# RankCLIP (arXiv 2404.09387): train.sh and defaults of rankclip/parser.py of Jam1ezhang/RankCLIP@841d171.
# A training from scratch, on 8 GPUs. For their ramp, LOSS_CFG=ramp_steps=N with two thirds of all steps.
: "${MODEL:=RN50}" "${PRETRAINED=}"
: "${GLOBAL_BATCH:=512}" "${LR:=5e-4}" "${WD:=0.1}" "${WARMUP:=10000}" "${EPOCHS:=64}"
