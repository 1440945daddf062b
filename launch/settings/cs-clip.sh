# shellcheck shell=bash
# CS-CLIP (arXiv 2602.23906): train_structured.sh and configs/ of kargibora/CS-CLIP@98b40c0, on 1 GPU.
# Their warm-up is 3 of the 5 epochs, so the number of steps follows from your data.
[[ ${WARMUP:-} ]] || stop "set WARMUP to the steps of 3 epochs: 3 times the number of samples, divided by GLOBAL_BATCH"
: "${COMPANIONS:=neg=1 phrase=2 foil=2}"
: "${GLOBAL_BATCH:=128}" "${LR:=5e-6}" "${WD:=0.01}" "${EPOCHS:=5}"
: "${EXTRA_FLAGS:=--grad-clip-norm 1.0}"
