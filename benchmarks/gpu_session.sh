#!/bin/sh
# What most needs a GPU, for the minutes in which there is one: sh benchmarks/gpu_session.sh OUT [PART ...]
#   first     encodes the images, takes two arms of the claims to their rows, and measures a training step of each arm
#   training  measures training at B and L
#   claims    the study claims; OPTIONS (key=value) for all its arms
#   tests     the tests marked gpu
# All parts by default. Each is timed, stopped at its limit, and goes on from where it was in a later session. `sh
# benchmarks/claims.sh prepare` comes first, where there is no GPU. With DRY=1 on a CPU: the same parts at their smallest.
set -u
out=$1
shift
mkdir -p "$out"
part() { # name, seconds, command
    name=$1 limit=$2; shift 2
    began=$(date +%s)
    timeout "$limit" "$@" > "$out/$name.txt" 2>&1
    echo "$name: exit $?, $(($(date +%s) - began)) s" | tee -a "$out/parts.txt"
}
SIZE="model.dim=192 model.layers=6 model.heads=3"
GPU="train.device=cuda model.compile=true train.precision=bf16-mixed"
ARMS=raster/causal,radial/plain,radial/nested,radial/full
if [ -n "${DRY-}" ]; then
    first() {
        part first 1800 sh benchmarks/claims.sh dry
        part steps 100 radar bench --what train --arms "$ARMS" --batch 1 --grid 8x8 --repeats 1 --out "$out/steps.json"
    }
    training() { part training 300 sh benchmarks/gpu_training.sh "$out/training"; }
    claims() { part claims 1800 sh benchmarks/claims.sh dry; }
    tests() { part tests 300 python -m pytest -q tests/test_graphs.py; }
else
    first() {
        part prepare 60 radar ablate claims --prepare train.device=cuda
        part first 60 sh benchmarks/claims.sh dry --workers 2 $SIZE $GPU train.batch_size=128 sample.precision=bf16-mixed
        part steps 60 radar bench --what train --arms "$ARMS" --vocabulary 1000 --classes 10 --batch 128 --repeats 3 \
            --out "$out/steps.json" $SIZE $GPU train.layout=packed
        cat "$out/steps.txt"
    }
    training() { part training "${TRAINING-130}" sh benchmarks/gpu_training.sh "$out/training"; }
    claims() { part claims "${CLAIMS-480}" sh benchmarks/claims.sh run ${OPTIONS-}; }
    tests() { part tests 200 python -m pytest -q -n 4 -m gpu; }
fi
for name in "${@:-first training claims tests}"; do for each in $name; do "$each"; done; done
[ -d runs/ablations/claims ] && tar -czf "$out/claims.tar.gz" --exclude 'film*' -C runs/ablations claims/rows claims/study.db claims/samples
exit 0
