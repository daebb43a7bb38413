#!/usr/bin/env bash
# Every method, short, on a trained ResNet-20 at 47 % of its MACs, on a CPU: one seed, some 10 epochs of training each.
# Each of the nine runs takes under 30 minutes on 2 cores; `bash runs/cpu-resnet20.sh uniform fpsl` runs two of them.
# The tolerance is wide, since so little training cannot hold a tight one: what is compared is the score at equal cost.
#
# WEIGHTS  a trained ResNet-20, for instance cifar10_resnet20.pt (required)
# DATA     cifar10.npz or torchvision:CIFAR10 (default)
# AMP      "--amp on" trains in bfloat16, about twice as fast on CPUs with instructions for it
DEVICE=cpu AMP=${AMP-}
source "$(dirname "$0")/lib.sh"
: "${WEIGHTS:?give the file of a trained ResNet-20 in WEIGHTS}"
SEED=${SEED:-0}
at=(--target-macs 0.47 --tolerance 0.2 --attempts 1 --control-size 2000 --seed "$SEED")
tuned=(--finish.epochs 10 --finish.lr 0.05 --finish.schedule cosine --finish.batch-size 128)

# Whoever trains before its fine-tuning fine-tunes for less: ten epochs each, in all.
declare -A options=(
    [uniform]=""
    [pfec]="--pfec.by-stage"
    [fpsl]="--fpsl.share 0.12 --repair.lr 0.02 --repair.epochs 0.5 --epochs 10"
    [prc]="--check round --prc.alpha 0.2 --press.epochs 0.25 --repair.epochs 0.5 --finish.epochs 9.2"
    [msvfp]="--msvfp.images 512 --msvfp.step 0.15 --msvfp.retrain-every 0.15 --press.epochs 0.5
        --finish.epochs 8.5"
    [importance-weights]="--importance-weights.images 5000 --importance-weights.warmup-epochs 2
        --importance-weights.share 0.1 --importance-weights.epsilon 10 --finish.epochs 9"
    [eagleeye]="--random.episodes 60"
    [slimming]="--press.epochs 4 --slimming.penalty 1e-4 --finish.epochs 6"
    [amc-rules]="--cem.episodes 120"
)
for method in "${@:-uniform pfec fpsl prc msvfp importance-weights eagleeye slimming amc-rules}"; do
    for name in $method; do
        # shellcheck disable=SC2086 # the options are words
        played "$OUT/cpu-$name-resnet20-s$SEED" --method "$name" --published --model resnet20 --weights "$WEIGHTS" \
            "${common[@]}" "${at[@]}" "${tuned[@]}" $AMP ${options[$name]}
    done
done
