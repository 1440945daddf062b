# shellcheck shell=bash
# CE-CLIP (arXiv 2306.08832): lezhang7/Enhance-FineGrained@c7b8dd7, the script of the release, on 2 GPUs.
# The authors' later scripts: imc_weight=0.3 at batch 512 or 1512, 10 epochs.
: "${COMPANIONS:=neg=4}"
: "${GLOBAL_BATCH:=256}" "${LR:=5e-6}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=5}"
: "${LOSS_CFG:=cmr_weight=0.2 imc_weight=0.2 threshold_cap=10}"
