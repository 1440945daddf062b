# shellcheck shell=bash
# DAC (arXiv 2305.19595): README and defaults of src/training/params.py of SivanDoveh/DAC@ca23611, on 1 GPU.
# They train with LoRA of rank 4 (--lora 4); here all weights are trained.
: "${COMPANIONS:=neg=10 pos=10}"
: "${GLOBAL_BATCH:=32}" "${LR:=5e-6}" "${WD:=0.1}" "${WARMUP:=10000}" "${EPOCHS:=5}"
