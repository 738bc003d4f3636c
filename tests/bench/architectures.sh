#!/usr/bin/env bash
# Whole BLiMP with each model of random_models.py: seconds of wall time and peak memory, from process start to report. Masked
# models, which read a copy of the sentence for each token, are asked the first 20 pairs of each paradigm only (2 %).
# Usage: architectures.sh BHEVAL MODELS [ROUNDS]; the rounds go through all models in turn, and the best of each is shown.
set -euo pipefail
bheval=$1 models=$2 rounds=${3:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for round in $(seq "$rounds"); do
    for model in "$models"/*/; do
        name=$(basename "$model")
        rm -rf "$work/run"
        extra=()
        [[ $name == bert || $name == roberta ]] && extra=(--pll original --limit 20)
        /usr/bin/time -f "%e %M" -o "$work/time" "$bheval" --model "$model" --tasks blimp --quiet --json "${extra[@]}" \
            --run-dir "$work/run" >/dev/null
        echo "$name $(cat "$work/time")" >>"$work/all"
    done
done
echo "| architecture | seconds | peak MB |"
echo "|---|---|---|"
sort -k1,1 -k2,2n "$work/all" | awk '!seen[$1]++ { printf "| %s | %.1f | %.0f |\n", $1, $2, $3 / 1024 }'
