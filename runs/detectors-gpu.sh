#!/usr/bin/env bash
# SSDlite and Faster R-CNN (MobileNet V3, 320) on road signs and blood cells: trained from scratch, then pruned by PRC to
# a tolerance of two points of mAP@0.5. The paper's own rows (Singh et al. 2020) are SSD and Faster R-CNN on GTSDB and
# COCO: DATASETS="data/GTSDB" takes the former.
#
# DATASETS  folders (default: "data/bccd data/roadsign")
# On one GPU: bash runs/detectors-gpu.sh
DEVICE=${DEVICE:-cuda} SEEDS=${SEEDS:-0 1 2}
export DEVICE SEEDS
here=$(dirname "$0")
for data in ${DATASETS:-data/bccd data/roadsign}; do
    for detector in ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn; do
        DATA=$data DETECTOR=$detector bash "$here/detector.sh"
    done
done
