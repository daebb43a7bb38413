# What the recipes share; sourced, not run.
#
# DATA     the data (default: torchvision:CIFAR10, downloaded on first use)
# ROOT     folder for it (default: torchvision's own cache)
# DEVICE   default: cuda
# SEEDS    default: "0 1 2"
# OUT      where the run folders go (default: runs)
# RLPRUNE  the command (default: rlprune)
# AMP      how precisely prunings train (default: --amp on)

set -euo pipefail
DATA=${DATA:-torchvision:CIFAR10}
DEVICE=${DEVICE:-cuda}
SEEDS=${SEEDS:-0 1 2}
OUT=${OUT:-runs}
RLPRUNE=${RLPRUNE:-rlprune}
AMP=${AMP---amp on}
common=(--data "$DATA" --device "$DEVICE")
[ -n "${ROOT:-}" ] && common+=(--root "$ROOT")

# trained NAME SEED OPTIONS...: a base network, unless it is there; goes on where it was stopped.
trained() {
    local name=$1 seed=$2
    shift 2
    $RLPRUNE train --seed "$seed" "${common[@]}" --out "$OUT/base-$name-s$seed" --resume "$@"
}

# base MODEL SEED: the same with the training of the CIFAR-10 networks.
base() {
    trained "$1" "$2" --model "$1" \
        --epochs 200 --lr 0.1 --warmup-epochs 5 --schedule cosine --weight-decay 5e-4 --batch-size 128 --amp
}

# row NAME BASE SEED OPTIONS...: one row of the table, pruned from base BASE, unless it is there; goes on where it was
# stopped. Its settings are in the record; the options count when it is started, not when it is resumed.
row() {
    local name=$1 base=$2 seed=$3
    shift 3
    played "$OUT/$name-$base-s$seed" --weights "$OUT/base-$base-s$seed/model.pt" --seed "$seed" "${common[@]}" \
        $AMP "$@"
}

# played FOLDER OPTIONS...: a pruning, unless it is there; goes on where it was stopped, with the options it has.
played() {
    local folder=$1
    shift
    [ -e "$folder/record.json" ] && set -- --resume
    $RLPRUNE prune "$@" --out "$folder" || failed "$folder" $?
}

# pruned NAME MODEL SEED OPTIONS...: the same for a base that is called as its model is.
pruned() {
    row "$1" "$2" "$3" --model "$2" "${@:4}"
}

# failed FOLDER CODE: what cannot be had (code 2, said in the line above: a tolerance that cannot be kept, say) ends one
# row, not the table; anything else ends the script.
failed() {
    echo "no row $1" >&2
    [ "$2" -eq 2 ] || exit "$2"
}
