#!/usr/bin/env bash
# PFEC (Li et al. 2016, table 1): the published rates, one shot, 40 epochs of retraining at 0.001.
# Published: VGG-16-A -34.2 % MACs, error 6.75 -> 6.60; ResNet-56-A -10.4 %, 6.96 -> 6.90 (this one reconstructed);
# ResNet-56-B -27.6 %, 6.96 -> 6.94; ResNet-110-A -15.9 %, 6.47 -> 6.45 (reconstructed); ResNet-110-B -38.6 %, 6.47 -> 6.70.
# Needs runs/cifar10-bases.sh. On one GPU: bash runs/cifar10-pfec.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    for table in vgg16-a resnet56-a resnet56-b resnet110-a resnet110-b; do
        pruned "pfec-${table#*-}" "${table%-*}" "$seed" --method pfec --published --pfec.table "$table" --attempts 1 --tolerance 0.02
    done
done
