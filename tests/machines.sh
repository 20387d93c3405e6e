#!/usr/bin/env bash
# The tests as other machines would run them: other linear algebra, other vector units, kernels for older processors.
#     tests/machines.sh [-p PYTHON] [-s SETTING]... [-- pytest's arguments; default: the whole suite]
# One line per setting, with how long it took; the log of each that fails is named, and the exit status is 1.
set -uo pipefail
cd "$(dirname "$0")/.."
python=python settings=()
while getopts "p:s:" option; do
    case $option in
        p) python=$OPTARG ;;
        s) settings+=("$OPTARG") ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
logs=$(mktemp -d)

# A compiler that builds for another processor: the last -march counts, and kernels are cached by their compiler.
cat > "$logs/cc-x86-64-v2" <<'EOF'
#!/bin/sh
exec "${REAL_CC:-cc}" "$@" -march=x86-64-v2
EOF
chmod +x "$logs/cc-x86-64-v2"

variables_of() {
    case $1 in
        plain) ;;
        mkl-compatible) echo MKL_CBWR=COMPATIBLE ;;
        mkl-avx2) echo MKL_CBWR=AVX2 ;;
        aten-default) echo ATEN_CPU_CAPABILITY=default ;;
        blas-nehalem) echo OPENBLAS_CORETYPE=NEHALEM ;;  # numpy's linear algebra
        kernels-native) echo "LOCALPLAST_KERNELS=as_shipped" ;;
        kernels-v2) echo "LOCALPLAST_KERNELS=as_shipped CC=$logs/cc-x86-64-v2" ;;
        *) return 1 ;;
    esac
}

[ ${#settings[@]} -gt 0 ] || settings=(plain mkl-compatible mkl-avx2 aten-default blas-nehalem kernels-native kernels-v2)
status=0
for setting in "${settings[@]}"; do
    variables=$(variables_of "$setting") || { echo "no setting $setting" >&2; exit 2; }
    start=$SECONDS
    if env $variables "$python" -m pytest -q "$@" > "$logs/$setting.log" 2>&1; then
        verdict=passes
    else
        verdict="FAILS, see $logs/$setting.log" status=1
        grep -E "^(FAILED|ERROR) " "$logs/$setting.log"
    fi
    echo "$setting: $verdict; $(tail -n 1 "$logs/$setting.log"); $((SECONDS - start)) s"
done
exit $status
