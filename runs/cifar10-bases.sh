#!/usr/bin/env bash
# The base networks of the CIFAR-10 table: VGG-16, ResNet-56 and ResNet-110, one for each seed.
# They are trained on the train role alone (44,488 images), so that the control split is images they have not seen.
# On one GPU: bash runs/cifar10-bases.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    for model in vgg16 resnet56 resnet110; do
        base "$model" "$seed"
    done
done
