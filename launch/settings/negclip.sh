# shellcheck shell=bash
# NegCLIP (arXiv 2210.01936): README of mertyg/vision-language-models-are-bows, defaults of vinid/neg_clip, on 1 GPU.
: "${COMPANIONS:=neg=1}"   # one of the caption's list, drawn in each epoch; hard images are further rows of the data
: "${GLOBAL_BATCH:=256}" "${LR:=1e-6}" "${WD:=0.2}" "${WARMUP:=50}" "${EPOCHS:=5}"
