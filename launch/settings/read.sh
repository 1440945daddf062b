# shellcheck shell=bash
# READ, its half about paraphrases (arXiv 2510.16540): config/train_read_clip.yaml of JiH00nKw0n/READ-CLIP@b2f096c.
: "${COMPANIONS:=neg=3 pos=1}"
: "${GLOBAL_BATCH:=256}" "${LR:=1e-5}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=5}"
: "${PRECISION:=amp_bf16}" "${SEED:=2025}"
