#!/bin/bash
# What one GPU can show in ten minutes: the checks on the device, the speed of both sides in each
# precision, and ENet on CamVid, both sides, as many epochs as fit, from a packed file.
#
#     docs/results/gpu.sh CAMVID OUT [MINUTES]
#
# CAMVID is the data set's folder (SegNet's layout), OUT a new folder or that of an earlier call,
# which goes on. MINUTES (default: 10) is the time for everything: each part is stopped at its share
# of it, says so, and the next one begins. Exit status 1: a check failed. On a small machine:
#
#     SIZE=24x32 BATCH=2 RUNS=2 EPOCHS=1 PRECISIONS=fp32 CHECK="--levels L0 --size 32x32" \
#         docs/results/gpu.sh CAMVID OUT
#
# OUT then holds check.json, fps.json, packed/ and study/ (study.html, study.md, study.json).
set -eu
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
data=$1 out=$2 minutes=${3:-10}
begun=$SECONDS
size=${SIZE:-360x480} batch=${BATCH:-10} runs=${RUNS:-20} seeds=${SEEDS:-1}
precisions=${PRECISIONS:-fp32,bf16,fp16}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
# JAX would take three quarters of the memory at once, and leave PyTorch none of it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

share() { # PERCENT of the time that is left, in seconds
    local left=$((60 * minutes - SECONDS + begun))
    echo $((left * $1 > 100 ? left * $1 / 100 : 1))
}
within() { # PERCENT COMMAND...: its status; 0, and a line, where its time was over
    local limit code=0
    limit=$(share "$1")
    # By Ctrl-C, at which a study stores where it is. In the foreground, as it would come twice
    # otherwise, to the program and to its group; the second ends it at once.
    timeout --foreground --signal=INT --kill-after=20 "$limit" "${@:2}" || code=$?
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then
        echo "stopped: its $limit s were over; the same call goes on"
        return 0
    fi
    return "$code"
}

echo "== 1 of 3: the checks on the device"
status=0
# shellcheck disable=SC2086  # several options
within 30 parity check enet-camvid ${CHECK:-} --json "$out/check.json" || status=$?
[ "$status" -le 1 ] || exit "$status"

echo "== 2 of 3: images per second"
# What is left out for want of time is a line of its table.
within 45 python "$here/fps.py" --model enet-camvid --size "$size" --batch "$batch" \
    --runs "$runs" --precisions "$precisions" --seconds "$(share 35)" --json "$out/fps.json"

echo "== 3 of 3: ENet on CamVid"
for split in train val; do
    [ -e "$out/packed/$split.array_record" ] || {
        mkdir -p "$out/packed"
        parity pack "$data" "$out/packed/$split.array_record" --dataset camvid --split "$split" \
            --size "$size"
    }
done
train() { # PERCENT EPOCHS SEEDS OUT: both sides
    within "$1" parity study enet-camvid --data "$out/packed" --out "$4" --seeds "$3" \
        --epochs "$2" --size "$size" --batch-size "$batch" --set validate_every=10 \
        --workers "${WORKERS:-4}"
}
# The number of epochs is chosen once: a study with another one would be another study.
if [ ! -s "$out/epochs" ]; then
    epochs=${EPOCHS:-}
    if [ -z "$epochs" ]; then
        # Two epochs of both sides say how long one takes; what is left of the time is divided by
        # it. Starting and compiling, which come again, are the rest of the time of those two.
        first=$SECONDS
        train 50 2 1 "$out/trial" > "$out/trial.txt"
        epochs=$(python "$here/gpu_epochs.py" "$out/trial/study.json" \
            "$((SECONDS - first))" "$(share 100)" "$seeds")
    fi
    echo "$epochs" > "$out/epochs"
fi
epochs=$(cat "$out/epochs")
echo "$epochs epoch(s)"
train 100 "$epochs" "$seeds" "$out/study"
echo "took $((SECONDS - begun)) s; $out/study/study.html"
exit "$status"
