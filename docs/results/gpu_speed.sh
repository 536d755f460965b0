#!/bin/bash
# How fast both sides are on one GPU, in ten minutes, and whether the check tells TF32.
#
#     docs/results/gpu_speed.sh OUT [MINUTES]
#
# 1. `parity check` without and with TF32, by JAX_DEFAULT_MATMUL_PRECISION. The reference computes on
#    the CPU, so the first must pass, and the second must fail where the GPU has TF32 (exit status 1
#    of this script if not).
# 2. A step of training on one device as `--devices` runs it: DDP, and JAX's pmap.
# 3. Images per second of each network, forward and a step: fp32 without and with TF32, bf16, fp16.
#
# OUT is a folder; it then holds check.json, check-tf32.json, devices.json and fps-NETWORK.json.
# MINUTES (default: 10) is the time for everything: each part is stopped at its share of it and says
# so. On a small machine:
#
#     MODELS=enet SIZE=64x64 BATCH=2 RUNS=2 CHECK="--levels L1 --size 32x32" \
#         docs/results/gpu_speed.sh OUT
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
out=$1 minutes=${2:-10} begun=$SECONDS again=
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=docs/results/timing.sh
source "$here/timing.sh"
mkdir -p "$out"
# JAX would take three quarters of the memory at once, and leave PyTorch none of it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
models=${MODELS:-enet erfnet icnet genet} precisions=${PRECISIONS:-fp32,tf32,bf16,fp16}
runs=${RUNS:-20}
size_of() { [ "$1" = genet ] && echo 32x32 || echo "${SIZE:-512x1024}"; }
batch_of() { [ "$1" = genet ] && echo "${BATCH:-128}" || echo "${BATCH:-8}"; }
has_gpu=$(python -c 'import jax; print(int(jax.default_backend() == "gpu"))') || exit 2

echo "== 1 of 3: the check without and with TF32"
status=0 code=0
# shellcheck disable=SC2086  # several options
JAX_DEFAULT_MATMUL_PRECISION=highest within 25 \
    parity check enet ${CHECK:-} --json "$out/check.json" || status=$?
rm -f "$out/check-tf32.json" # of an earlier call: what was stopped is not judged by it
# shellcheck disable=SC2086
JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32 within 25 \
    parity check enet ${CHECK:-} --json "$out/check-tf32.json" || code=$?
[ "$status" -le 1 ] || exit "$status"
[ "$code" -le 1 ] || exit "$code"
if [ "$has_gpu" = 1 ] && [ -e "$out/check-tf32.json" ] && [ "$code" = 0 ]; then
    echo "the check did not tell TF32"
    status=1
fi

echo "== 2 of 3: one device, by DDP and pmap"
first=${models%% *}
within 20 parity bench --model "$first" --train --devices 1 --size "$(size_of "$first")" \
    --batch "$(batch_of "$first")" --runs "$runs" --json "$out/devices.json" || {
    echo "that failed"
    status=1
}

echo "== 3 of 3: images per second"
left=$(wc -w <<< "$models")
for model in $models; do
    # As long for each as for those after it.
    within $((100 / left)) python "$here/fps.py" --model "$model" --size "$(size_of "$model")" \
        --batch "$(batch_of "$model")" --runs "$runs" --precisions "$precisions" \
        --json "$out/fps-$model.json"
    left=$((left - 1))
done
echo "took $((SECONDS - begun)) s"
exit "$status"
