#!/bin/sh
# Makes every file of a folder of this directory again: sh benchmarks/run.sh benchmarks/NAME (with nothing else running; the first two commands took 16 minutes on a Zen 3).
set -eu
out=$1
ARMS=raster/causal,radial/plain,radial/relay,radial/nested
MORE=$ARMS,halton:steps=13:schedule=cosine/plain,radial/nested:rings=2,radial/nested:every=2
EACH=raster/causal,zcurve/causal
for order in radial diagonal multi_center random:steps=13:schedule=cosine halton:steps=13:schedule=cosine; do
    for variant in plain relay nested full nested_memory; do EACH=$EACH,$order/$variant; done
done
mkdir -p "$out"
bench() { name=$1; shift; radar bench --out "$out/$name.json" "$@" > "$out/$name.txt"; }

bench sample --arms "$MORE"
# The allocator keeps freed memory instead of giving it back to the system after every pass (glibc; 5% here).
MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TOP_PAD_=268435456 \
    bench compiled --arms "$MORE" model.compile=true
# With AVX2 only, where the matrix rate is about half: the ratio to the floor depends on it. The compiler's cache does
# not tell instruction sets apart, so it gets a fresh one.
avx2() { MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 bench "$@" --arms "$ARMS"; }
avx2 avx2
TORCHINDUCTOR_CACHE_DIR=$(mktemp -d) avx2 avx2-compiled model.compile=true
bench rest --what decode,train,load,metrics --batch 16 --repeats 3 --arms "$ARMS"
bench train-compiled --what train --batch 16 --repeats 3 --arms "$ARMS" model.compile=true
bench guided --guidance 2 --repeats 3 --arms "$ARMS"
bench batch-64 --batch 64 --repeats 2 --arms "$ARMS"
bench bf16 --repeats 3 --arms "$ARMS" sample.precision=bf16-mixed
bench scaling --grid 8x8,16x16,24x24,32x32 --batch 2 --repeats 3 --arms "$EACH" --vocabulary 256 model.preset=tiny
