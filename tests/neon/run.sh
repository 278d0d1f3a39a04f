#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The CPU backend's NEON kernels under emulation: compiles base, the backend
# and qmoe-check for 64-bit Arm and runs the harness under qemu-user.  OpenBLAS
# and cJSON are replaced (tests/tools/fake_openblas.c, stand_ins.c) and xxHash is
# taken from its header, so that no Arm library but the C library is needed.
#
#   run.sh FOLDER [ARGUMENT...]     arguments for qmoe-check
#
# Exit status 77: the cross compiler or the emulator is missing.
set -euo pipefail
source_dir=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
out=$1
shift
compiler=aarch64-linux-gnu-gcc
for tool in "$compiler" qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "no $tool" >&2
        exit 77
    fi
done
rm -rf "$out"
mkdir -p "$out/include"
cp -r /usr/include/xxh*.h /usr/include/cjson "$out/include/"
# Declarations alone: the functions are found at run time.
blas=$(pkg-config --variable=includedir openblas)
cp "$blas/cblas.h" "$blas/openblas_config.h" "$out/include/"

# The sources that a CMakeLists.txt names in `list`.
sources() {
    sed -n "/$1/,/)/p" "$source_dir/$2/CMakeLists.txt" | tr -s ' ()' '\n\n\n' |
        sed -n "s|^\(.*\.c\)\$|$source_dir/$2/\1|p"
}
base=$(sources 'qmoe_add_part(qmoe_base' core/base | grep -v /commit.c
    sources 'qmoe_add_part(qmoe_formats' core/formats
    sources 'qmoe_add_part(qmoe_ops' core/ops)
backend=$(sources 'qmoe_add_part(qmoe_backend_cpu' backends/cpu)
check=$(sources 'add_executable(qmoe-check' tests/check)
core="$source_dir/core/files/hash.c
    $source_dir/core/run/module_file.c $source_dir/core/run/registry.c"

compile() {
    local name
    for file in "$@"; do
        name=$(echo "${file#"$source_dir/"}" | tr / _)
        echo "$out/${name%.c}.o $file"
    done | xargs -P "$(nproc)" -n 2 "$here/compile.sh"
}
here=$source_dir/tests/neon
export flags="-std=gnu11 -O2 -ffp-contract=off -Wall -Wextra -Werror
    -DXXH_INLINE_ALL -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I$out/include
    -I$here -I$source_dir/core/base -I$source_dir/core/formats
    -I$source_dir/core/ops -I$source_dir/core/files -I$source_dir/core/run
    -I$source_dir/include
    -I$source_dir/backends/cpu -I$source_dir/tests/check"
export compiler
# shellcheck disable=SC2086
compile $base $backend $check $core "$here/stand_ins.c"
"$compiler" -o "$out/qmoe-check" "$out"/*.o -lm -lpthread -ldl
export QMOE_OPENBLAS=$out/fake_openblas.so
"$compiler" -shared -fPIC -O2 -o "$QMOE_OPENBLAS" \
    "$source_dir/tests/tools/fake_openblas.c"
# Guest folders: libraries of the cross compiler.
check() {
    qemu-aarch64 -L /usr/aarch64-linux-gnu "$out/qmoe-check" --backend cpu "$@"
}
if [ $# != 0 ]; then
    check "$@"
    exit
fi
# Experts take as long as all the rest: two processors share them.
status=0
check --case expert-ffn/ >"$out/experts.log" &
check --except expert-ffn/ >"$out/others.log" || status=$?
wait $! || status=$?
for log in experts others; do
    sed '$d' "$out/$log.log"
done
tail -qn 1 "$out/experts.log" "$out/others.log" | awk '
    { passed += $1; failed += $3; skipped += $5 }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
exit $status
