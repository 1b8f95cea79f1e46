#!/bin/sh
# The paper's claims at its own grid (16x16 cells: 256 steps against 13) on Fashion-MNIST, in parts of a few minutes.
#   sh benchmarks/claims.sh prepare   without a GPU: trains the tokenizer, encodes the images, checks every arm
#   sh benchmarks/claims.sh dry       without a GPU, after prepare: two arms to their rows, 20 iterations each
#   sh benchmarks/claims.sh run       on a GPU: goes on where it was stopped; WORKERS (4) trainings side by side
# Options (key=value) may follow.
set -eu
task=${1-}
[ $# = 0 ] || shift
case $task in
prepare)
    radar ablate claims --prepare "$@"
    ;;
dry)
    radar ablate benchmarks/claims_dry.yaml "$@"
    ;;
run)
    radar ablate claims --workers "${WORKERS-4}" train.device=cuda "$@"
    ;;
*)
    echo "usage: sh benchmarks/claims.sh prepare|dry|run [key=value ...]" >&2
    exit 2
    ;;
esac
