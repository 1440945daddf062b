# shellcheck shell=bash
# AHNPL (arXiv 2505.15576): scripts/run.sh of nynu-BDAI/AHNPL@6f35f47, on 1 GPU.
: "${COMPANIONS:=neg=5}"
: "${GLOBAL_BATCH:=128}" "${LR:=2e-5}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=10}"
