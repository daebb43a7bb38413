#!/usr/bin/env bash
# AFP + PRC (Singh et al. 2020): the tolerance sets the rates. One AFP epoch and up to 10 recovery epochs a round.
# Published: VGG-16 6.43x fewer MACs, 17.5x fewer parameters, no loss. Aim for ResNet-56: at least 93.5 % at 2.1x.
# Needs runs/cifar10-bases.sh. On one GPU: bash runs/cifar10-prc.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    pruned prc vgg16 "$seed" --method prc --published --target-macs 0.155 --tolerance 0.01 --finish.epochs 100 --finish.lr 0.02
    pruned prc resnet56 "$seed" --method prc --published --target-macs 0.476 --tolerance 0.01 --finish.epochs 100 --finish.lr 0.05
    pruned prc resnet110 "$seed" --method prc --published --target-macs 0.476 --tolerance 0.01 --finish.epochs 100 --finish.lr 0.05
done
