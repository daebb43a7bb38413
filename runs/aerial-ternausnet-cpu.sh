#!/usr/bin/env bash
# TernausNet (width 8, a quarter of the paper's) on aerial buildings: trained from scratch, then pruned by importance
# weights and by PRC to a tolerance of one point of mIoU. Under an hour on 2 cores for some 130 images of 256x256.
# DATA and BASE_OPTIONS: see aerial-unet-cpu.sh. It has no batch norm, so recovery is least squares and training alone.
DEVICE=${DEVICE:-cpu} DATA=${DATA:-data/aerial} SEEDS=${SEEDS:-0}
source "$(dirname "$0")/lib.sh"
tuned=(--batch-size 8 --repair.lr 0.002 --finish.epochs 10 --finish.optimizer adamw --finish.lr 0.0005)
for seed in $SEEDS; do
    # shellcheck disable=SC2086 # the options are words
    trained ternausnet8 "$seed" --model ternausnet:width=8 --epochs 40 --batch-size 8 --optimizer adamw --lr 0.001 \
        --warmup-epochs 2 --amp ${BASE_OPTIONS:-}
    row importance-weights ternausnet8 "$seed" --method importance-weights --published --model ternausnet:width=8 --tolerance 0.01 \
        --target-macs 0.35 --importance-weights.images 48 --importance-weights.share 0.06 --importance-weights.epsilon 0.3 \
        --recovery lsq+finetune --repair.epochs 1 "${tuned[@]}"
    row prc ternausnet8 "$seed" --method prc --published --model ternausnet:width=8 --tolerance 0.01 \
        --target-macs 0.35 --rounds 15 --prc.alpha 0.4 --prc.delta 3 --recovery lsq --prc.probe-recovery lsq \
        --press.lr 0.002 --repair.epochs 12 --repair-to 0.2 "${tuned[@]}" \
        --repair.optimizer adamw --repair.lr 0.0005
done
