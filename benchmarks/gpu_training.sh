#!/bin/sh
# How fast training is, and what share of the device it uses: sh benchmarks/gpu_training.sh OUT (with nothing else running)
# Sizes B and L; what is there already is not measured again. MORE=1: also dense masks, not compiled, random steps.
# With WARM=1 all arms side by side, only to fill the compiler's cache. With DRY=1 on a CPU: one tiny size.
set -eu
out=$1
mkdir -p "$out"
run() { # name, arms, options
    name=$1 arms=$2; shift 2
    [ -e "$out/$name.json" ] || radar bench --what train --out "$out/$name.json" --arms "$arms" --vocabulary 16384 \
        --repeats "${REPEATS-5}" "$@" > "$out/$name.txt" 2>&1
}
# As many images as fit: the optimizer is paid per step. nested takes three times the memory of plain.
bench() { # name, images, images of nested, options
    name=$1 images=$2 few=$3; shift 3
    if [ -z "${WARM-}" ]; then
        run "$name" raster/causal,radial/plain,radial/relay --batch "$images" "$@"
        run "$name-nested" radial/nested --batch "$few" "$@"
        return
    fi
    REPEATS=1
    run "$name-raster" raster/causal --batch "$images" "$@" &
    run "$name-plain" radial/plain --batch "$images" "$@" &
    wait # side by side all four would need too much memory
    run "$name-relay" radial/relay --batch "$images" "$@" &
    run "$name-nested" radial/nested --batch "$few" "$@" &
    wait
}
if [ -n "${DRY-}" ]; then
    REPEATS=1 bench tiny 4 2 --grid 8x8 model.preset=tiny train.layout=packed train.device=cpu
    exit 0
fi
GPU="train.device=cuda train.precision=bf16-mixed"
bench B 256 64 model.preset=B model.compile=true train.layout=packed $GPU
bench L 64 32 model.preset=L model.compile=true train.layout=packed $GPU
[ -n "${MORE-}" ] || exit 0
bench B-dense 256 64 model.preset=B model.backend=sdpa model.compile=true train.layout=packed $GPU
bench B-not-compiled 256 64 model.preset=B train.layout=packed $GPU
bench B-sampled 256 64 model.preset=B model.compile=true train.layout=sampled $GPU
bench L-sampled 64 32 model.preset=L model.compile=true train.layout=sampled $GPU
