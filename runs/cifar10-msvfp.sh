#!/usr/bin/env bash
# MSVFP (Ghimire and Kim 2023): the layer whose trial removal costs the least loss, L2 norm first, similarity later.
# Published: VGG-16 93.79 -> 94.02 at -34 to -36 % MACs; VGG-16, ResNet-56 and ResNet-110 better than their bases beyond
# -50 %.
# Needs runs/cifar10-bases.sh. On one GPU: bash runs/cifar10-msvfp.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    pruned msvfp-65 vgg16 "$seed" --method msvfp --published --target-macs 0.65 --tolerance 0.02
    for model in vgg16 resnet56 resnet110; do
        pruned msvfp-48 "$model" "$seed" --method msvfp --published --target-macs 0.48 --tolerance 0.02
    done
done
