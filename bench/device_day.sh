#!/bin/sh
# What only a GPU can show, in order of worth, each step under its own time limit: half an hour at most.
#
#     bench/device_day.sh FOLDER              run everything; docs/gpu.md and docs/cuda-engine.md are filled from FOLDER
#     MINUTES=10 bench/device_day.sh FOLDER   10 minutes at most: a step gets what is left, and those for which nothing
#                                             is left are listed with exit code 125
#     bench/device_day.sh --pack WHEELS       here, with a network: fetch what a machine without one lacks, for the
#                                             same version of Python as $PYTHON has here
#     bench/device_day.sh --dry-run FOLDER    here, without a GPU: every step's tests are collected, its options read
#
# On the device it needs this checkout, Python with CuPy and torch, and the packages of the tests: if FOLDER/../wheels or
# $WHEELS has wheels of --pack, they are installed from there, beside what is there. Without Ray, nvidia-cudnn-frontend,
# torch or compute-sanitizer the steps that need them say so. Each step writes FOLDER/NN-name.log; summary.txt has its
# exit code (124: the time was up) and seconds. Where the cuda engine cannot run, it says what is missing, and ends.
set -u
cd "$(dirname "$0")/.."
root=$PWD

# The packages of the server and of the tests that are neither CUDA's nor large.
PACKAGES="grpcio grpcio-status grpcio-health-checking grpcio-reflection protobuf ml_dtypes numba onnxruntime onnx onnx-ir
onnxscript scipy threadpoolctl platformdirs cachetools psutil safetensors typer rich pillow prometheus-client structlog
pydantic-settings opentelemetry-api tqdm lz4 pytest pytest-timeout hypothesis"
ALONE="nvidia-cudnn-frontend nvidia-ml-py" # without what they ask for, a compiler of 300 MB among it

if [ "${1-}" = --pack ]; then
    pip="${PYTHON:-python3} -m pip download --quiet --constraint constraints.txt --dest ${2:?a folder}"
    # shellcheck disable=SC2086 # lists of words
    $pip $PACKAGES && exec $pip --no-deps $ALONE
fi
dry=
if [ "${1-}" = --dry-run ]; then dry=1; shift; fi
out=${1:?a folder for the results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-$out/../wheels}
if [ -d "$wheels" ] && [ -z "$dry" ]; then
    "$python" -m venv --system-site-packages "$out/venv" && python=$out/venv/bin/python
    # shellcheck disable=SC2086
    { "$python" -m pip install --no-index --find-links "$wheels" $PACKAGES
      "$python" -m pip install --no-index --find-links "$wheels" --no-deps $ALONE; } > "$out/install.log" 2>&1
fi
export PYTHONPATH="$root/client:$root/worker:$root/server:$root/bench${PYTHONPATH:+:$PYTHONPATH}"
export GROUPCONV_TUNE=on XDG_CACHE_HOME="$out/cache" PYTHONUNBUFFERED=1
if [ -z "$dry" ]; then
    "$python" -c 'import sys
try:
    from groupconv_worker.cuda.engine import why_unavailable
except ImportError as error:
    sys.exit(f"{error}: make wheels with bench/device_day.sh --pack, and name their folder in WHEELS")
sys.exit(why_unavailable() or 0)' || exit
fi
: > "$out/summary.txt"
number=0
minutes=${MINUTES:-30}
last=$(($(date +%s) + 60 * minutes))

# step NAME SECONDS COMMAND...
step() {
    name=$1 limit=$2
    shift 2
    number=$((number + 1))
    log=$(printf '%s/%02d-%s.log' "$out" "$number" "$name")
    begin=$(date +%s)
    left=$((last - begin))
    if [ "$left" -lt 5 ]; then
        printf '%02d %-24s exit 125    0 s of %4d: not run, the %s minutes are over\n' "$number" "$name" "$limit" "$minutes" \
            | tee -a "$out/summary.txt"
        return
    fi
    [ "$left" -lt "$limit" ] && limit=$left
    timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1
    status=$?
    printf '%02d %-24s exit %3d %4d s of %4d: %s\n' "$number" "$name" "$status" "$(($(date +%s) - begin))" "$limit" \
        "$(tail -n 1 "$log" | cut -c 1-90)" | tee -a "$out/summary.txt"
}

# tests NAME SECONDS ARGUMENTS...
tests() {
    name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" -m pytest -m gpu -q -p no:cacheprovider ${dry:+--collect-only} "$@"
}

# script NAME SECONDS FILE ARGUMENTS...
script() {
    name=$1 limit=$2 file=$3
    shift 3
    step "$name" "$limit" "$python" "bench/$file" "$@" ${dry:+--dry-run}
}

step machine 20 sh -c 'nvidia-smi -q 2>&1 | grep -E "Product Name|Driver Version|CUDA Version|FB Memory|Total|MIG" | head -20
    "$0" -c "import sys; print(sys.version)
for name in (\"cupy\", \"torch\", \"cudnn\", \"ray\", \"numba\"):
    try: print(name, __import__(name).__version__)
    except Exception as error: print(name, error)"' "$python"
# ten minutes: what has never run on a device, and the layers that most users have
tests recordings 150 tests/worker/cuda/test_gpu_captured_runs.py
tests chains 60 tests/worker/cuda/test_gpu_chains.py
tests cudnn 60 tests/worker/cuda/test_gpu_cudnn.py
tests networks 110 tests/worker/cuda/network/test_gpu_networks.py
script float32-batch-1 100 gpu.py --batch 1
script float16-batch-32 100 gpu.py --batch 32 --dtype float16
tests processes 110 tests/worker/networks/test_gpu_device_processes.py
# twenty more
tests engine 190 tests/worker/cuda/test_gpu.py
script device-arrays 80 device_arrays.py --layer alexnet_conv2 mobilenet_dw_14 --batch 1 32 --rounds 1
script network-times 90 gpu_networks.py
script float32-batch-32 70 gpu.py --batch 32
for batch in 1 32; do script "tf32-batch-$batch" 70 gpu.py --batch "$batch" --math tf32; done
script float16-batch-1 70 gpu.py --batch 1 --dtype float16
script bfloat16-batch-32 70 gpu.py --batch 32 --dtype bfloat16
script float16-nhwc 70 gpu.py --batch 32 --dtype float16 --layout NHWC
tests clients 90 tests/integration/test_gpu_clients.py tests/server/memory/test_cuda_memory.py
step warmup 60 "$python" -m groupconv_server warmup --engine cuda --rows alexnet,mobilenet ${dry:+--help}
script two-workers 60 two_workers_one_gpu.py
if [ -n "$dry" ]; then
    tests sanitizer 100 tests/worker/cuda/test_gpu.py -k "wide or sliding"
elif command -v compute-sanitizer > /dev/null; then
    step sanitizer 100 compute-sanitizer "$python" -m pytest -m gpu -q tests/worker/cuda/test_gpu.py -k "wide or sliding"
else
    step sanitizer 100 echo "skipped: no compute-sanitizer"
fi

! grep -qv "exit   0" "$out/summary.txt"
