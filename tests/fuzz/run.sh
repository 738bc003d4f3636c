#!/usr/bin/env bash
# Fuzzes every target for SECONDS each; one line a target, and exit 1 where one crashed.
#
#   run.sh SECONDS          under stable, by random mutation: what CI runs, with no build of its own
#   run.sh --deep SECONDS   with cargo-fuzz: coverage-guided, with AddressSanitizer; needs nightly and cargo-fuzz
#   run.sh [--deep] SECONDS TARGET...   these targets only
#
# A crash names the file of its input. To see it again:
#   cargo +nightly fuzz run --fuzz-dir tests/fuzz TARGET FILE
set -uo pipefail
cd "$(dirname "$0")/../.."

deep=false
if [ "${1:-}" = --deep ]; then deep=true; shift; fi
seconds=${1:?usage: run.sh [--deep] SECONDS [TARGET...]}
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    targets=(jsonl lines archive manifest safetensors forest records tokenizer)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

# The target, what it did or where it crashed.
crashed() { # target, folder of inputs, pattern of their names
    failed=1
    local input
    input=$(find "$2" -name "$3" -newer "$log.begun" 2>/dev/null | head -n 1)
    echo "$1: crashed; the input lies at ${input:-(none was kept)}"
    tail -n 40 "$log" >&2
}

fast() {
    local artifacts=target/tmp/fuzz
    touch "$log.begun"
    BHEVAL_FUZZ_SECONDS=$seconds RUST_BACKTRACE=0 \
        cargo test --quiet -p bheval-tests --test fuzz_smoke -- --exact "$1" --nocapture >"$log" 2>&1
    local code=$?
    if [ $code = 0 ] && grep -E "^$1: [0-9]+ executions" "$log"; then return; fi
    crashed "$1" "$artifacts" "$1"
}

deep() {
    local fuzz=tests/fuzz
    mkdir -p "$fuzz/corpus/$1" "$fuzz/artifacts/$1"
    touch "$log.begun"
    cargo +nightly fuzz run --fuzz-dir "$fuzz" "$1" "$fuzz/corpus/$1" "$fuzz/seeds/$1" -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=20 -max_len=16384 \
        -print_final_stats=1 -verbosity=1 >"$log" 2>&1
    local code=$?
    local executions
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ $code = 0 ] && [ -n "$executions" ]; then
        echo "$1: $executions executions in $seconds s"
        return
    fi
    crashed "$1" "$fuzz/artifacts/$1" '*-*'
}

for target in "${targets[@]}"; do
    if $deep; then deep "$target"; else fast "$target"; fi
done
rm -f "$log.begun"
exit $failed
