#!/bin/bash
# What one GPU can show in ten minutes: the checks on the device, the speed of both sides in each
# precision, and ENet on CamVid, both sides, as many epochs as fit, from a packed file.
#
#     docs/results/gpu.sh CAMVID OUT [MINUTES]
#
# CAMVID is the data set's folder (SegNet's layout), OUT a new folder or that of an earlier call,
# which goes on. MINUTES (default: 10) is the time for everything. On a small machine:
#
#     SIZE=24x32 BATCH=2 RUNS=2 EPOCHS=1 PRECISIONS=fp32 CHECK="--levels L0 --size 32x32" \
#         docs/results/gpu.sh CAMVID OUT
set -eu
data=$1 out=$2 minutes=${3:-10}
begun=$SECONDS
size=${SIZE:-360x480} batch=${BATCH:-10} runs=${RUNS:-20} seeds=${SEEDS:-1}
precisions=${PRECISIONS:-fp32,bf16,fp16}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
# JAX would take three quarters of the memory at once, and leave PyTorch none of it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

echo "== 1 of 3: the checks on the device"
status=0
# shellcheck disable=SC2086  # several options
parity check enet-camvid ${CHECK:-} --json "$out/check.json" || status=$?

echo "== 2 of 3: images per second"
python "$here/fps.py" --model enet-camvid --size "$size" --batch "$batch" --runs "$runs" \
    --precisions "$precisions" --json "$out/fps.json"

echo "== 3 of 3: ENet on CamVid"
for split in train val; do
    [ -e "$out/packed/$split.array_record" ] || {
        mkdir -p "$out/packed"
        parity pack "$data" "$out/packed/$split.array_record" --dataset camvid --split "$split" \
            --size "$size"
    }
done
train() { # EPOCHS OUT: both sides
    parity study enet-camvid --data "$out/packed" --out "$2" --seeds "$seeds" --epochs "$1" \
        --size "$size" --batch-size "$batch" --set validate_every=10 --workers "${WORKERS:-4}"
}
epochs=${EPOCHS:-}
if [ -z "$epochs" ]; then
    # Two epochs of both sides say how long one takes; what is left of the time is divided by it.
    # Starting and compiling, which come again, are counted as the rest of the time of those two.
    first=$SECONDS
    train 2 "$out/trial" > "$out/trial.txt"
    took=$((SECONDS - first))
    epochs=$(python - "$out/trial/study.json" "$took" "$((60 * minutes - SECONDS + begun))" <<'P'
import json, sys
runs = json.load(open(sys.argv[1]))["rows"][0]["runs"]
took, left = float(sys.argv[2]), float(sys.argv[3])
epoch = sum(367 / run["speed"]["images_per_second"] for run in runs)
print(max(1, min(300, int(0.9 * (left - (took - 2 * epoch)) / epoch))))
P
    )
fi
echo "$epochs epochs"
train "$epochs" "$out/study"
echo "took $((SECONDS - begun)) s; $out/study/study.html"
exit "$status"
