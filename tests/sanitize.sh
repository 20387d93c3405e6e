#!/usr/bin/env bash
# Run the kernels' odd shapes, and the exact steps of loops, with address and undefined-behaviour sanitizers: minutes, most
# of them compiling.
# Kernels have a cache of their own, for the flags are part of their key; leaks are Python's own and not looked at.
set -euo pipefail
cd "$(dirname "$0")/.."

compiler=${CC:-gcc}
export LOCALPLAST_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
export LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so)"
export OMP_NUM_THREADS=1
# -s: what pytest captures would end with the process, and the report with it

exec "${PYTHON:-python}" -m pytest -n 0 -q -s -p no:cacheprovider tests/backends/c/test_shapes.py tests/neuron/test_exact_loops.py "$@"
