#!/bin/sh
# What most needs a GPU, for the minutes in which there is one: sh benchmarks/gpu_session.sh OUT
# Every part is timed, stopped at its limit, and goes on from where it was in a later session. `sh benchmarks/claims.sh
# prepare` comes first, where there is no GPU. With DRY=1 on a CPU: the same parts at their smallest.
set -u
out=$1
mkdir -p "$out"
part() { # name, seconds, command
    name=$1 limit=$2; shift 2
    began=$(date +%s)
    timeout "$limit" "$@" > "$out/$name.txt" 2>&1
    echo "$name: exit $?, $(($(date +%s) - began)) s" | tee -a "$out/parts.txt"
}
if [ -n "${DRY-}" ]; then
    part tests 300 python -m pytest -m gpu tests/test_graphs.py
    part claims 300 sh benchmarks/claims.sh dry
    part training 120 sh benchmarks/gpu_training.sh "$out/training"
else
    part claims 270 sh benchmarks/claims.sh run
    part training 150 sh benchmarks/gpu_training.sh "$out/training"
    part tests 100 python -m pytest -n 8 -m gpu
fi
[ -d runs/ablations/claims ] && tar -czf "$out/claims.tar.gz" -C runs/ablations/claims rows study.db samples
exit 0
