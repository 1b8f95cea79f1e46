#!/bin/sh
# What most needs a GPU, for the minutes in which there is one: sh benchmarks/gpu_session.sh OUT [PART ...]
#   first     side by side: the tests marked gpu, the features of the claims' images, the compiler's cache for training
#   training  measures training of the main arms at B and L, alone (MORE=1: dense masks, not compiled, random steps too)
#   claims    the study claims_gpu (three trainings at 16x16 cells)
#   profile   shows where a training step of raster and radial/plain at size L spends its time
# All parts by default. Each is timed and stopped at its limit. What claims and training have finished is not done
# again, on the same machine or where their folders are brought back. `sh benchmarks/claims.sh prepare` comes first,
# where there is no GPU. On the machine that was lent, Python took 20 s to load its libraries (NOTES.md).
# With DRY=1 on a CPU: the same parts at their smallest.
set -u
out=$1
shift
part() { # name, seconds, command
    called=$1 limit=$2; shift 2
    began=$(date +%s)
    timeout -k 5 "$limit" "$@" > "$out/$called.txt" 2>&1
    echo "$called: exit $?, $(($(date +%s) - began)) s" | tee -a "$out/parts.txt"
}
SIZE="model.dim=1024 model.layers=24 model.heads=16 train.batch_size=32 train.layout=packed"
GPU="train.device=cuda model.compile=true train.precision=bf16-mixed"
traced() { # arm, options
    arm=$1; shift
    part "profile-$arm" "${TRACED-120}" radar train fashion tokenizer.downsample=2 train.max_steps=12 train.val_images=100 \
        train.val_samples=0 train.profile=true "tokenizer.checkpoint=runs/tokenizers/fashion-16/last.ckpt" "run=$out/$arm" "$@"
    mv "$out/$arm/profile/table.txt" "$out/profile-$arm-table.txt"
    rm -r "$out/$arm"
}
study() { part "$1" "$2" radar ablate benchmarks/claims_gpu.yaml --workers 3 train.device=cuda $3; }
if [ -n "${DRY-}" ]; then
    first() { part tests 300 python -m pytest -q tests/test_graphs.py; }
    training() { part training 300 sh benchmarks/gpu_training.sh "$out/training"; }
    claims() { part claims 1800 sh benchmarks/claims.sh dry; }
    profile() { TRACED=300 traced nested attention=nested train.batch_size=2 model.dim=32 model.heads=1 model.layers=1; }
else
    first() {
        export TORCHINDUCTOR_COMPILE_THREADS=4
        part tests "${TESTS-240}" python -m pytest -q -n 6 -m gpu $(grep -l "mark.gpu" tests/*.py) &
        study prepare 150 --prepare &
        WARM=1 part warm 180 sh benchmarks/gpu_training.sh "$out/warm" &
        wait
    }
    training() { part training "${TRAINING-200}" sh benchmarks/gpu_training.sh "$out/training"; }
    claims() { study claims "${CLAIMS-420}" "${OPTIONS-}"; }
    profile() {
        traced plain attention=plain $SIZE $GPU
        traced raster order.name=raster attention=causal $SIZE $GPU
    }
fi
[ $# -gt 0 ] || set -- first training claims profile
for name; do
    case $name in
    first | training | claims | profile) ;;
    *) echo "no part '$name': first, training, claims, profile" >&2; exit 2 ;;
    esac
done
mkdir -p "$out"
for name; do "$name"; done
study=runs/ablations/claims_gpu
[ ! -d $study ] || tar -czf "$out/claims_gpu.tar.gz" --exclude 'film*' --exclude '*.ckpt' -C runs/ablations claims_gpu
exit 0
