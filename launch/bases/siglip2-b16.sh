# shellcheck shell=bash
# SigLIP 2 ViT-B/16 (arXiv 2502.14786). NOT RUN HERE ON THE REAL WEIGHTS, and tuned for no loss.
# The schedule is C2LIP's (arXiv 2603.25722) for ViT-B-16-SigLIP, the first SigLIP: scripts/train_full_model_wds_data.sh of
# SamsungLabs/concept_centric_clip@69b5d26, on 8 GPUs of 96 samples. There the weights are bf16, too (--precision bf16).
: "${MODEL:=ViT-B-16-SigLIP2}" "${PRETRAINED=webli}"    # weights and tokenizer are downloaded; needs transformers
: "${GLOBAL_BATCH:=768}" "${LR:=1e-5}" "${WD:=0.1}" "${WARMUP:=50}" "${EPOCHS:=5}"
: "${PRECISION:=amp_bf16}"
# As the tag webli says, for a checkpoint file as PRETRAINED, which does not: upstream would then take OpenAI's.
# The logit bias is the model's own, so --siglip is not needed.
: "${MODEL_FLAGS:=--image-mean 0.5 0.5 0.5 --image-std 0.5 0.5 0.5 --image-resize-mode squash}"
