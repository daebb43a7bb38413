#!/usr/bin/env bash
# U-Net (width 16) on CamVid (street scenes, 11 classes): trained from scratch, then pruned by the default command, and by
# importance weights as published to 40 % of the MACs, at a tolerance of one point of mIoU. Half an hour of one core for
# the base and a third for the default command, with 367 images of 320x240.
#
# DATA  folder of image/mask folders (default: data/camvid)
DEVICE=${DEVICE:-cpu} DATA=${DATA:-data/camvid} SEEDS=${SEEDS:-0} AMP=${AMP-}
source "$(dirname "$0")/lib.sh"
tuned=(--calibration-size 12 --batch-size 8 --finish.optimizer adamw --finish.lr 0.001)
for seed in $SEEDS; do
    trained unet16-camvid "$seed" --model unet:width=16 --epochs 30 --batch-size 8 --optimizer adamw --lr 0.002 \
        --warmup-epochs 1
    row prc unet16-camvid "$seed" --model unet:width=16 --tolerance 0.01
    row importance-weights unet16-camvid "$seed" --method importance-weights --published --model unet:width=16 --tolerance 0.01 \
        --target-macs 0.4 --importance-weights.images 48 --importance-weights.share 0.1 --importance-weights.epsilon 1 \
        --recovery lsq+bn-delta+finetune --repair.epochs 0.5 --repair.optimizer adamw --repair.lr 0.001 "${tuned[@]}" --finish.epochs 15
done
