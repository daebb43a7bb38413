#!/usr/bin/env bash
# Importance weights (Sawant et al. 2022) on the same networks, at half of the MACs. The paper's own rows are for
# segmentation; there is none to compare with on CIFAR-10. The default bound on the rise of the loss ends the pruning
# long before half of the MACs is gone, so the target ends it here, and every removal is followed by an epoch of training.
# Needs runs/cifar10-bases.sh. On one GPU: bash runs/cifar10-importance-weights.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    for model in vgg16 resnet56 resnet110; do
        pruned importance-weights "$model" "$seed" --method importance-weights --published --target-macs 0.48 --tolerance 0.02 \
            --importance-weights.epsilon 10 --recovery lsq+bn-delta+finetune --repair.epochs 1 \
            --finish.epochs 160 --finish.lr 0.05
    done
done
