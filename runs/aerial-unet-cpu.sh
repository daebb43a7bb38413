#!/usr/bin/env bash
# U-Net (width 16) on aerial buildings: trained from scratch, then pruned by importance weights and by PRC to 40 % of the
# MACs, at a tolerance of one point of mIoU. Under an hour on 2 cores for some 130 images of 256x256.
#
# DATA          folder of image/mask folders, or Inria's or AIRS's own layout (default: data/aerial)
# BASE_OPTIONS  more options of the base training; "--control-from train --control-size 30" keeps more control images
#               aside than a tiny val folder has, and the pruning takes the same ones
DEVICE=${DEVICE:-cpu} DATA=${DATA:-data/aerial} SEEDS=${SEEDS:-0}
source "$(dirname "$0")/lib.sh"
tuned=(--batch-size 8 --finish.optimizer adamw)
for seed in $SEEDS; do
    # shellcheck disable=SC2086 # the options are words
    trained unet16 "$seed" --model unet:width=16 --epochs 80 --batch-size 4 --optimizer adamw --lr 0.002 \
        --warmup-epochs 2 --amp ${BASE_OPTIONS:-}
    row importance-weights unet16 "$seed" --method importance-weights --published --model unet:width=16 --tolerance 0.01 \
        --target-macs 0.4 --importance-weights.images 48 --importance-weights.share 0.08 --importance-weights.epsilon 0.3 \
        --recovery lsq+bn-delta+finetune --repair.epochs 1 --repair.lr 0.005 "${tuned[@]}" --finish.epochs 40 --finish.lr 0.002
    row prc unet16 "$seed" --method prc --published --model unet:width=16 --tolerance 0.01 --target-macs 0.4 --rounds 15 \
        --prc.alpha 0.4 --prc.delta 3 --press.lr 0.002 --repair.epochs 12 --repair-to 0.2 \
        --repair.optimizer adamw --repair.lr 0.001 "${tuned[@]}" --finish.epochs 20 --finish.lr 0.001
done
