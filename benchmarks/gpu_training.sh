#!/bin/sh
# How fast training is, and what share of the device it uses: sh benchmarks/gpu_training.sh OUT (with nothing else running)
# Sizes B and L, all main arms, FlexAttention and dense masks, compiled and not; what is there already is not measured
# again. With DRY=1 on a CPU: one tiny size.
set -eu
out=$1
mkdir -p "$out"
ARMS=raster/causal,radial/plain,radial/relay,radial/nested
bench() {
    name=$1; shift
    [ -e "$out/$name.json" ] || radar bench --what train --out "$out/$name.json" --arms "$ARMS" --vocabulary 16384 \
        --repeats "${REPEATS-5}" "$@" > "$out/$name.txt"
}
if [ -n "${DRY-}" ]; then
    REPEATS=1 bench tiny --batch 2 --grid 8x8 model.preset=tiny train.layout=packed train.device=cpu
    exit 0
fi
GPU="train.device=cuda train.precision=bf16-mixed"
bench L-flex-compiled --batch 32 model.preset=L model.compile=true train.layout=packed $GPU
bench B-flex-compiled --batch 64 model.preset=B model.compile=true train.layout=packed $GPU
bench B-dense-compiled --batch 64 model.preset=B model.backend=sdpa model.compile=true train.layout=packed $GPU
bench B-flex --batch 64 model.preset=B train.layout=packed $GPU
bench B-sampled-compiled --batch 64 model.preset=B model.compile=true train.layout=sampled $GPU
bench L-sampled-compiled --batch 32 model.preset=L model.compile=true train.layout=sampled $GPU
