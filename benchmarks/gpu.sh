#!/bin/sh
# Makes the files of a GPU again: sh benchmarks/gpu.sh benchmarks/NAME (with nothing else running; on an H200 size B took 75 s after it was built).
set -eu
out=$1
ARMS=raster/causal,radial/plain,radial/relay,radial/nested
mkdir -p "$out"
bench() { name=$1; shift; radar bench --out "$out/$name.json" --arms "$ARMS" --vocabulary 16384 "$@" train.device=cuda sample.precision=bf16-mixed > "$out/$name.txt"; }

for size in B L; do
    bench "$size-compiled" --batch 1,64,256 "model.preset=$size" model.compile=true
done
# What recording and compiling do.
bench B-recorded --batch 1,64 model.preset=B
RADAR_GRAPHS=0 bench B-eager --batch 1,64 model.preset=B
