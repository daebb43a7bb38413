#!/usr/bin/env bash
# What the five methods are compared with, on the same networks at about half of the MACs: uniform rates, EagleEye,
# network slimming, AMC's rules with cross-entropy search. All are fine-tuned alike: 160 epochs from 0.05.
# Needs runs/cifar10-bases.sh. On one GPU: bash runs/cifar10-compared.sh
source "$(dirname "$0")/lib.sh"
for seed in $SEEDS; do
    for model in vgg16 resnet56 resnet110; do
        for method in uniform eagleeye slimming amc-rules; do
            extra=()
            [ "$method" = slimming ] && [ "$model" != vgg16 ] && extra=(--slimming.penalty 1e-5)
            pruned "$method" "$model" "$seed" --method "$method" --published --target-macs 0.48 --tolerance 0.02 --attempts 1 \
                --finish.epochs 160 --finish.lr 0.05 --finish.batch-size 128 --finish.weight-decay 5e-4 \
                --finish.nesterov ${extra[@]+"${extra[@]}"}
        done
    done
done
