# shellcheck shell=bash
# FSC-CLIP (arXiv 2410.05210): README of ytaek-oh/fsc-clip@604015d, COCO, on 1 GPU. For CC3M: LOSS_CFG=scr_weight=1.0.
: "${COMPANIONS:=neg=3}"
: "${GLOBAL_BATCH:=256}" "${LR:=5e-6}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=5}"
: "${LOSS_CFG:=scr_weight=0.5 local_weight=0.2 focal=2.0 label_smoothing=0.02}"
