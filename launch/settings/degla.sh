# shellcheck shell=bash
# DeGLA (arXiv 2504.16801): xiaoxing2001/DeGLA@1c5e960, scripts/train_DeGLA.sh, on 8 GPUs.
: "${COMPANIONS:=neg=4}"
: "${GLOBAL_BATCH:=256}" "${LR:=1e-6}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=5}"
# The distillation is a sum over the batch: 0.005 is the weight for a batch of 256, scaled for others.
: "${LOSS_CFG:=distill_weight=$(awk "BEGIN { print 0.005 * 256 / $GLOBAL_BATCH }")}"
