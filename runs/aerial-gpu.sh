#!/usr/bin/env bash
# The importance-weights paper's own task (Sawant et al. 2022): TernausNet and U-Net at full width on Inria's or AIRS's
# buildings. Published: 85 % of the MACs gone at 0.32 points of loss of score. Here down to 15 % of the MACs, by
# importance weights and by PRC, at a tolerance of 0.0032 mIoU.
#
# DATA  Inria's or AIRS's folder, cut into tiles on the fly (default: data/AerialImageDataset:size=256)
# On one GPU: bash runs/aerial-gpu.sh
DATA=${DATA:-data/AerialImageDataset:size=256}
source "$(dirname "$0")/lib.sh"
tuned=(--batch-size 16 --repair.lr 0.005 --finish.epochs 40 --finish.optimizer adamw --finish.lr 0.0005)
for seed in $SEEDS; do
    for model in unet ternausnet; do
        repair=lsq+bn-delta
        [ "$model" = ternausnet ] && repair=lsq # no batch norm
        trained "$model" "$seed" --model "$model" --epochs 60 --batch-size 16 --optimizer adamw --lr 0.001 \
            --warmup-epochs 2 --amp
        row importance-weights "$model" "$seed" --method importance-weights --published --model "$model" --target-macs 0.15 \
            --tolerance 0.0032 --recovery "$repair+finetune" --repair.epochs 1 "${tuned[@]}"
        row prc "$model" "$seed" --method prc --published --model "$model" --target-macs 0.15 --tolerance 0.0032 \
            --recovery "$repair" --prc.probe-recovery "$repair" --press.lr 0.005 \
            --prc.alpha 0.4 --prc.delta 3 --repair-to 0.2 "${tuned[@]}" --repair.optimizer adamw --repair.lr 0.0005
    done
done
