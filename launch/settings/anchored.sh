# shellcheck shell=bash
# The loss of this project (docs/anchored.md). Nobody has published settings for it: these are DeGLA's
# (arXiv 2504.16801, xiaoxing2001/DeGLA@1c5e960), for its data and negatives. The weights of its terms are the
# defaults of the loss. They were chosen in drawn worlds and are untested on photographs.
: "${COMPANIONS:=neg=4}"
: "${GLOBAL_BATCH:=256}" "${LR:=1e-6}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=5}"
