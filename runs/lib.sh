# What the recipes share; sourced, not run.
#
# DATA     the data (default: torchvision:CIFAR10, downloaded on first use)
# ROOT     folder for it (default: torchvision's own cache)
# DEVICE   default: cuda
# SEEDS    default: "0 1 2"
# OUT      where the run folders go (default: runs)
# RLPRUNE  the command (default: rlprune)

set -euo pipefail
DATA=${DATA:-torchvision:CIFAR10}
DEVICE=${DEVICE:-cuda}
SEEDS=${SEEDS:-0 1 2}
OUT=${OUT:-runs}
RLPRUNE=${RLPRUNE:-rlprune}
common=(--data "$DATA" --device "$DEVICE")
[ -n "${ROOT:-}" ] && common+=(--root "$ROOT")

# base MODEL SEED: train the base network, unless it is there; goes on where it was stopped.
base() {
    $RLPRUNE train --model "$1" --seed "$2" "${common[@]}" --out "$OUT/base-$1-s$2" --resume \
        --epochs 200 --lr 0.1 --warmup-epochs 5 --schedule cosine --weight-decay 5e-4 --batch-size 128 --amp
}

# pruned NAME MODEL SEED OPTIONS...: one row of the table, unless it is there; goes on where it was stopped.
# Its settings are in the record; the options count when it is started, not when it is resumed.
pruned() {
    local name=$1 model=$2 seed=$3 folder
    shift 3
    folder="$OUT/$name-$model-s$seed"
    if [ -e "$folder/record.json" ]; then
        $RLPRUNE prune --out "$folder" --resume || failed "$folder"
    else
        $RLPRUNE prune --model "$model" --weights "$OUT/base-$model-s$seed/model.pt" --seed "$seed" "${common[@]}" \
            --out "$folder" --amp --finetune-amp "$@" || failed "$folder"
    fi
}

# A tolerance that cannot be kept ends one row, not the table.
failed() {
    echo "no network inside the tolerance: $1" >&2
}
