#!/bin/sh
# What most needs a GPU, for the minutes in which there is one: sh benchmarks/gpu_session.sh OUT [PART ...]
#   profile   encodes the images, and shows where a training step of two arms of the claims spends its time
#   training  measures training: of the arms of the claims, then of B and L
#   claims    the study claims; OPTIONS (key=value) for all its arms
#   tests     the tests marked gpu
# All parts by default; together they are more than nine minutes, so name some. Each is timed and stopped at its limit.
# What claims has finished is not done again, on the same machine or where its folder is brought back; nor are the arms
# and sizes of training that have a file in OUT. `sh benchmarks/claims.sh prepare` comes first, where there is no GPU.
# On the machine that was lent, Python took 20 s to load its libraries, and a compiled arm 30 s to begin (NOTES.md).
# With DRY=1 on a CPU: the same parts at their smallest.
set -u
out=$1
shift
part() { # name, seconds, command
    called=$1 limit=$2; shift 2
    began=$(date +%s)
    timeout "$limit" "$@" > "$out/$called.txt" 2>&1
    echo "$called: exit $?, $(($(date +%s) - began)) s" | tee -a "$out/parts.txt"
}
SIZE="model.dim=192 model.layers=6 model.heads=3"
GPU="train.device=cuda model.compile=true train.precision=bf16-mixed"
traced() { # arm, options
    arm=$1; shift
    part "profile-$arm" "${TRACED-120}" radar train fashion tokenizer.downsample=2 train.max_steps=12 train.val_images=100 \
        train.val_samples=0 train.profile=true "tokenizer.checkpoint=runs/tokenizers/fashion-16/last.ckpt" "run=$out/$arm" "$@"
    cat "$out/$arm/profile/table.txt"
    mv "$out/$arm/profile/table.txt" "$out/profile-$arm-table.txt"
    rm -r "$out/$arm"
}
if [ -n "${DRY-}" ]; then
    profile() { TRACED=300 traced nested attention=nested train.batch_size=2 model.dim=32 model.heads=1 model.layers=1; }
    training() { part training 300 sh benchmarks/gpu_training.sh "$out/training"; }
    claims() { part claims 1800 sh benchmarks/claims.sh dry; }
    tests() { part tests 300 python -m pytest -q tests/test_graphs.py; }
else
    profile() {
        part prepare 90 radar ablate claims --prepare train.device=cuda
        traced nested attention=nested train.batch_size=128 train.layout=auto $SIZE $GPU
        traced raster order.name=raster attention=causal train.batch_size=128 train.layout=auto $SIZE $GPU
    }
    training() {
        for arm in raster/causal radial/plain radial/nested; do
            file=$out/step-$(echo $arm | tr / -).json
            [ -e "$file" ] || part "step-${arm#*/}" 90 radar bench --what train --arms "$arm" --vocabulary 1024 --classes 10 \
                --batch 128 --repeats 3 --out "$file" $SIZE $GPU
        done
        part training "${TRAINING-150}" sh benchmarks/gpu_training.sh "$out/training"
    }
    claims() { part claims "${CLAIMS-480}" sh benchmarks/claims.sh run ${OPTIONS-}; }
    tests() { part tests 200 python -m pytest -q -n 4 -m gpu; }
fi
[ $# -gt 0 ] || set -- profile training claims tests
for name; do
    case $name in
    profile | training | claims | tests) ;;
    *) echo "no part '$name': profile, training, claims, tests" >&2; exit 2 ;;
    esac
done
mkdir -p "$out"
for name; do "$name"; done
[ -d runs/ablations/claims ] && tar -czf "$out/claims.tar.gz" --exclude 'film*' --exclude '*.ckpt' -C runs/ablations claims
exit 0
