#!/usr/bin/env bash
# Tasks that are no classification of images, on data made here: a base trained, then pruned by the default command.
# Finished runs are left alone, others go on where they were.
#
# OUT      where the run folders go (default: runs/other-tasks)
# RLPRUNE  the command (default: rlprune)
set -euo pipefail
OUT=${OUT:-runs/other-tasks} RLPRUNE=${RLPRUNE:-rlprune}
networks=$(dirname "$0")/other_tasks.py
${PYTHON:-python} "$networks" "$OUT/data"

# row DATA NETWORK TASK TOLERANCE
row() {
    local common=(--model "$networks:$2" --data "$OUT/data/$1.npz" --task "$3" --normalise none)
    [ -e "$OUT/base-$1/model.pt" ] || $RLPRUNE train "${common[@]}" --epochs 40 --optimizer adamw --lr 0.003 \
        --batch-size 32 --out "$OUT/base-$1" --resume
    $RLPRUNE prune "${common[@]}" --weights "$OUT/base-$1/model.pt" --tolerance "$4" --control-from train \
        --out "$OUT/$1" --resume
}
row regression regressor regression 0.01
row heads TwoHeads "heads:0=classification;1=classification" 0.01
row image denoiser image 0.2
row signals listener classification 0.01
