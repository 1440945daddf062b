# shellcheck shell=bash
# TSVLC (arXiv 2211.11733): README and defaults of src/training/params.py of SivanDoveh/TSVLC@90b18e7, on 1 GPU.
# They train with LoRA of rank 4 (--lora 4); here all weights are trained. For negatives alone: LOSS_CFG=pos_weight=0.
: "${COMPANIONS:=neg=1 pos=1}"
: "${GLOBAL_BATCH:=128}" "${LR:=5e-6}" "${WD:=0.1}" "${WARMUP:=10000}" "${EPOCHS:=5}"
