#!/usr/bin/env bash
# Every library's shared object exports fm_<library>_ symbols alone, all of them declared FM_API in a public header, and
# its archive has no other external symbol that could collide with a user's. fs also has the functions of 3FS's interface to
# rings, whose names its users' sources give: those that hf3fs_usrbio.h declares.
set -euo pipefail
build=$1
bad=0
usrbio=$(grep -oE '\bhf3fs_[a-z0-9_]+\(' "${FM_SOURCE_DIR:?}/lib/fs/include/hf3fs_usrbio.h" | tr -d '(' | sort -u)
for shared in "$build"/lib/*/libfathom_*.so; do
    library=$(basename "$(dirname "$shared")")
    exported=$(nm -D --defined-only "$shared" | awk '{ print $3 }')
    if [ -z "$exported" ]; then
        echo "$library exports nothing" >&2
        bad=1
    fi
    allowed=
    if [ "$library" = fs ]; then
        allowed=$usrbio
        for symbol in $usrbio; do
            grep -qxF -- "$symbol" <<<"$exported" || { echo "libfathom_fs.so lacks $symbol" >&2; bad=1; }
        done
    fi
    while read -r symbol; do
        if grep -qxF -- "$symbol" <<<"$allowed"; then
            continue
        elif [[ $symbol != fm_${library}_* ]]; then
            echo "libfathom_$library.so exports $symbol" >&2
            bad=1
        elif ! grep -rqw "$symbol" "${FM_SOURCE_DIR:?}/lib/$library/include"; then
            echo "libfathom_$library.so exports $symbol, which no public header declares" >&2
            bad=1
        fi
    done <<<"$exported"
    # Sanitizers add symbols of their own; they are not ours to name.
    strangers=$(nm --defined-only -g "${shared%.so}.a" 2>/dev/null | awk 'NF == 3 { print $3 }' |
        grep -vxF "${allowed:-none}" | grep -vE "^fm_${library}_|^__(asan|ubsan|odr_asan|tsan|sancov|start|stop)|^__sanitizer" || true)
    if [ -n "$strangers" ]; then
        echo "libfathom_$library.a has external symbols outside fm_${library}_:" $strangers >&2
        bad=1
    fi
done
exit $bad
