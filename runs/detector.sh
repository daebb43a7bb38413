#!/usr/bin/env bash
# SSDlite on blood cells (or road signs): trained from scratch, then pruned by PRC to a tolerance of two points of
# mAP@0.5. Some 200 images: under an hour on 2 cores.
#
# DATA         COCO's JSON files with image folders, or GTSDB's folder (default: data/bccd)
# TARGET_MACS  share of the MACs to keep (default: 0.6)
# DETECTOR     default: ssdlite320_mobilenet_v3_large; fasterrcnn_mobilenet_v3_large_320_fpn takes about three times as long
DEVICE=${DEVICE:-cpu} DATA=${DATA:-data/bccd} SEEDS=${SEEDS:-0} DETECTOR=${DETECTOR:-ssdlite320_mobilenet_v3_large}
AMP="--amp off"
source "$(dirname "$0")/lib.sh"
common+=(--model "torchvision:$DETECTOR" --task detection:metric=map50)
name=$DETECTOR-$(basename "$DATA")
for seed in $SEEDS; do
    trained "$name" "$seed" --epochs 60 --batch-size 16 --optimizer adamw --lr 0.001 --warmup-epochs 2
    row prc "$name" "$seed" --method prc --published --tolerance 0.02 --target-macs "${TARGET_MACS:-0.6}" --rounds 12 \
        --prc.alpha 0.3 --prc.delta 3 --press.epochs 0.5 --press.lr 0.002 \
        --repair.epochs 12 --repair-to 0.3 --batch-size 16 --repair.optimizer adamw --repair.lr 0.0005 \
        --finish.epochs 10 --finish.optimizer adamw --finish.lr 0.0003
done
