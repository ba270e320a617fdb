#!/usr/bin/env bash
# `fathom info` tells the truth under FM_ISA: never above the cap, never above what the CPU has, and it says why.
set -euo pipefail
fathom=$1
level_of() { "$@" | sed -n 's/^ *"level": "\(.*\)",*/\1/p'; }
rank() { case $1 in ref) echo 0 ;; avx2) echo 1 ;; avx512) echo 2 ;; amx) echo 3 ;; *) echo "no level: '$1'" >&2; exit 1 ;; esac; }

best=$(rank "$(level_of env -u FM_ISA "$fathom" info --json --no-bandwidth)")
# The kernel's own list of flags is the independent witness.
flags=" $(grep -m1 '^flags' /proc/cpuinfo || true) "
witness=0
has() { local f; for f in "$@"; do [[ $flags == *" $f "* ]] || return 1; done; }
if has avx2 fma f16c; then witness=1; fi
if has avx2 fma f16c avx512f avx512bw avx512dq avx512vl; then witness=2; fi
if has avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_tile amx_bf16 amx_int8; then witness=3; fi
[ "$best" = "$witness" ] || { echo "info says level $best, /proc/cpuinfo $witness" >&2; exit 1; }

for cap in ref avx2 avx512 amx; do
    got=$(rank "$(level_of env FM_ISA=$cap "$fathom" info --json --no-bandwidth)")
    want=$(rank $cap)
    [ "$want" -le "$best" ] || want=$best
    [ "$got" = "$want" ] || { echo "FM_ISA=$cap: level $got, expected $want" >&2; exit 1; }
    # Each of the four levels has its reason on a line of its own.
    [ "$(FM_ISA=$cap "$fathom" info --no-bandwidth | grep -cE '^  (ref|avx2|avx512|amx) +[a-z]')" = 4 ]
done
if message=$(FM_ISA=avx1024 "$fathom" info --no-bandwidth 2>&1 >/dev/null); then
    echo "FM_ISA=avx1024 was accepted" >&2
    exit 1
fi
[[ $message == *avx1024* ]]
