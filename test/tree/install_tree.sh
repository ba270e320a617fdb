#!/usr/bin/env bash
# Installs into a fresh prefix, moves it elsewhere, and builds and runs a program against what is there with pkg-config,
# shared and static.
set -euo pipefail
build=$1 cc=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
DESTDIR='' cmake --install "$build" --prefix "$scratch/first" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
mv "$scratch/first" "$scratch/moved"
prefix=$scratch/moved
libdir=$(dirname "$(find "$prefix" -name fathom_base.pc)")/..

"$prefix/bin/fathom" --version
"$prefix/bin/fathom" info --json >"$scratch/info.json"
[ -s "$scratch/info.json" ]
[ -f "$prefix/share/man/man1/fathom.1" ]
[ -f "$prefix/share/bash-completion/completions/fathom" ]

cat >"$scratch/user.c" <<'C'
#include <fathom/status.h>
#include <stdio.h>
int main(void)
{
    fm_base_error_set(FM_ERR_ARG, "from %s", "outside");
    return puts(fm_error_message()) < 0;
}
C
export PKG_CONFIG_PATH=$libdir/pkgconfig
# shellcheck disable=SC2046 # flags are words
"$cc" "$scratch/user.c" -o "$scratch/user_shared" $(pkg-config --cflags --libs fathom_base)
[ "$(LD_LIBRARY_PATH=$libdir "$scratch/user_shared")" = "from outside" ]
# shellcheck disable=SC2046
"$cc" "$scratch/user.c" -o "$scratch/user_static" $(pkg-config --cflags fathom_base) "$libdir/libfathom_base.a" \
    $(pkg-config --static --libs-only-l fathom_base | sed 's/-lfathom_base//')
[ "$("$scratch/user_static")" = "from outside" ]
# README's C program, as a newcomer would paste it.
awk '/^```c$/ { on = 1; next } /^```/ { on = 0 } on' "${FM_SOURCE_DIR:?}/README.md" >"$scratch/readme.c"
# shellcheck disable=SC2046
"$cc" -Wall -Wextra -Werror "$scratch/readme.c" -o "$scratch/readme" $(pkg-config --cflags --libs fathom_base)
[ "$(LD_LIBRARY_PATH=$libdir "$scratch/readme" /nonexistent.safetensors 2>&1)" != "" ]

# Every installed header compiles where nothing but the installed tree is.
for header in "$prefix"/include/fathom/*.h; do
    echo "#include <fathom/${header##*/}>" | "$cc" -std=c11 -fsyntax-only -I"$prefix/include" -x c -
done
# What is installed tells nothing of where it was built.
if grep -rlF "$FM_SOURCE_DIR/" "$prefix/lib" "$prefix/bin" --include='libfathom*' --include=fathom; then
    echo "these name the source tree" >&2
    exit 1
fi

for pc in "$libdir"/pkgconfig/fathom_*.pc; do
    pkg-config --exists --print-errors "$(basename "$pc" .pc)"
done

# Uninstalling leaves what others put there, and nothing of ours.
touch "$prefix/lib/other"
install -D "$build/install_manifest.txt" "$scratch/first/share/fathom/installed.txt"
cp -r "$prefix/." "$scratch/first"
"$FM_SOURCE_DIR/setup/uninstall.sh" "$scratch/first" >/dev/null
[ "$(cd "$scratch/first" && find . -type f)" = ./lib/other ]
