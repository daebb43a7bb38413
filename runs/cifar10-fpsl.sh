#!/usr/bin/env bash
# FPSL (Mondal et al. 2023): 1 % of all filters an epoch by one global threshold, 300 epochs in all.
# Published MACs reductions: VGG-16 53.5 %, ResNet-56 52.9 %, ResNet-110 60.5 %.
# Needs runs/cifar10-bases.sh. On one GPU: bash runs/cifar10-fpsl.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    pruned fpsl vgg16 "$seed" --method fpsl --published --target-macs 0.465 --tolerance 0.02
    pruned fpsl resnet56 "$seed" --method fpsl --published --target-macs 0.471 --tolerance 0.02
    pruned fpsl resnet110 "$seed" --method fpsl --published --target-macs 0.395 --tolerance 0.02
done
