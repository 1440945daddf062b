# shellcheck shell=bash
# Omni-NegCLIP (arXiv 2603.29258): Jingqi-Xu/Omni-NegCLIP. No warm-up is stated: 50 steps are ours, as in the others.
# They train the first layers of the text tower alone, which is no option of upstream's trainer.
: "${COMPANIONS:=neg=1 absence=1}"
: "${GLOBAL_BATCH:=128}" "${LR:=1e-6}" "${WD:=0.2}" "${WARMUP:=50}" "${EPOCHS:=30}"
: "${EXTRA_FLAGS:=--lock-image}"
