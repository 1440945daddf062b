# shellcheck shell=bash
# CoN-CLIP (arXiv 2403.20312): src/run_finetuning.sh and defaults of jaisidhsingh/CoN-CLIP@503388a.
: "${COMPANIONS:=neg=1}"   # the negated caption
: "${GLOBAL_BATCH:=200}" "${LR:=1e-6}" "${WD:=0.2}" "${WARMUP:=50}" "${EPOCHS:=5}"
: "${EXTRA_FLAGS:=--lock-image}"
