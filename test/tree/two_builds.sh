#!/usr/bin/env bash
# A program and the libraries above base by one build run on libfathom_base.so by another (another compiler where there is
# one, no optimisation), and share its one error state: nothing but the public ABI may be relied on.
set -euo pipefail
build=$1 cc=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
other=gcc
! command -v clang >/dev/null || other=clang
{
    cmake -S "${FM_SOURCE_DIR:?}" -B "$scratch/build" -G Ninja -DCMAKE_C_COMPILER=$other -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_C_FLAGS_DEBUG=-O0 -DBUILD_TESTING=OFF
    cmake --build "$scratch/build" --target fathom_base_shared
} >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }

cat >"$scratch/user.c" <<'C'
#include <fathom/fs.h>
#include <fathom/status.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    /* The failure happens in fs, the message is kept in base. */
    fm_fs *fs;
    fm_status status = fm_fs_open("nosuchscheme:/x", 0, &fs);
    puts(fm_error_message());
    return !(status == FM_ERR_UNSUPPORTED && strstr(fm_error_message(), "nosuchscheme"));
}
C
source=$FM_SOURCE_DIR/lib
"$cc" "$scratch/user.c" -o "$scratch/user" "-I$source/base/include" "-I$source/fs/include" "-L$build/lib/fs" -lfathom_fs \
    "-L$build/lib/base" -lfathom_base
path=$scratch/build/lib/base:$build/lib/fs:$build/lib/net
LD_LIBRARY_PATH=$path ldd "$scratch/user" | grep "$scratch/build/lib/base/libfathom_base.so" >/dev/null
LD_LIBRARY_PATH=$path "$scratch/user"
