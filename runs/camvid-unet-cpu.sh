#!/usr/bin/env bash
# U-Net (width 16) on CamVid (street scenes, 11 classes): trained from scratch, then pruned by PRC and by importance
# weights to 40 % of the MACs, at a tolerance of one point of mIoU. An hour on 2 cores for 367 images of 320x240.
#
# DATA  folder of image/mask folders (default: data/camvid)
DEVICE=${DEVICE:-cpu} DATA=${DATA:-data/camvid} SEEDS=${SEEDS:-0}
source "$(dirname "$0")/lib.sh"
tuned=(--calibration-size 12 --batch-size 8 --finetune-optimizer adamw --finetune-lr 0.001 --finetune-batch-size 8)
for seed in $SEEDS; do
    trained unet16-camvid "$seed" --model unet:width=16 --epochs 30 --batch-size 8 --optimizer adamw --lr 0.002 \
        --warmup-epochs 1 --amp
    row prc unet16-camvid "$seed" --method prc --model unet:width=16 --tolerance 0.01 --target-macs 0.4 --rounds 12 \
        --prc-alpha 0.4 --prc-delta 3 --prc-afp-epochs 0.25 --prc-batch-size 8 --prc-lr 0.002 --prc-amp --repair-epochs 8 \
        --repair-to 0.2 --optimizer adamw --lr 0.001 "${tuned[@]}" --finetune-epochs 8
    row importance-weights unet16-camvid "$seed" --method importance-weights --model unet:width=16 --tolerance 0.01 \
        --target-macs 0.4 --importance-weights-images 48 --importance-weights-share 0.1 --importance-weights-epsilon 1 \
        --recovery lsq+bn-delta+finetune --round-epochs 0.5 --optimizer adamw --lr 0.001 "${tuned[@]}" --finetune-epochs 15
done
