#!/usr/bin/env bash
# Who may include whom: reads the table of ARCHITECTURE.md between the lines "include-table begin" and "end", and every
# #include of the tree; fails on an edge that the table does not have.
set -euo pipefail
cd "${FM_SOURCE_DIR:?}"

# Outside headers and the name the table uses for them. A header that matches no row and no system folder is unknown.
outside='
jansson.h jansson
yaml.h libyaml
zlib.h zlib
isa-l.h ISA-L
isa-l/ ISA-L
crc.h ISA-L
duckdb.h DuckDB
cuda.h CUDA
nvrtc.h NVRTC
openssl/ OpenSSL
omp.h OpenMP
mpi.h MPI
lmdb.h LMDB
libpq-fe.h libpq
fuse libfuse3
liburing.h liburing
pcre2.h PCRE2
microhttpd.h libmicrohttpd
'
bad=0
fail() { echo "$*" >&2; bad=$((bad + 1)); }

declare -A may outside_of owner seen_in
while IFS='|' read -r _ library includes libraries _; do
    for name in ${library//[,\`]/ }; do
        may[$name]=" ${includes//[,\`()]/ } "
        outside_of[$name]=$libraries
    done
done < <(sed -n '/include-table begin/,/include-table end/p' ARCHITECTURE.md | grep '^|' | tail -n +3)
[ ${#may[@]} -ge 10 ] || { echo "ARCHITECTURE.md: the include table was not found" >&2; exit 1; }

for header in lib/*/include/fathom/*.h; do
    name=${header##*/}
    library=${header#lib/}
    [ -z "${owner[$name]:-}" ] || fail "$header: a second public header named $name"
    owner[$name]=${library%%/*}
done

check_house_edge() { # file, library, included header
    local target=${owner[$3]:-}
    if [ -z "$target" ]; then
        fail "$1 includes fathom/$3, which no library has"
    elif [ "$target" != "$2" ] && [[ ${may[$2]:-} != *" $target "* ]]; then
        fail "$1: lib/$2 may not include $target (fathom/$3)"
    fi
}

check_outside_edge() { # file, library, header
    local pattern name
    while read -r pattern name; do
        case $3 in "${pattern:-none}"*) ;; *) continue ;; esac
        [[ ${outside_of[$2]:-} == *"$name"* ]] || fail "$1: lib/$2 may not include <$3> ($name)"
        # "Each confined to one place": one file, or one folder below src.
        local place=$1
        [[ $1 == lib/*/src/*/* ]] && place=${1%/*}
        local key="$2 $name"
        [[ " ${seen_in[$key]:-$place} " == *" $place "* ]] ||
            fail "$place: <$3> ($name) is included in ${seen_in[$key]} too; confine it to one file or folder"
        seen_in[$key]=$place
        return
    done <<<"$outside"
}

for directory in lib/*/; do
    library=$(basename "$directory")
    [ -n "${may[$library]:-}" ] || fail "lib/$library is not in the table of ARCHITECTURE.md"
    while IFS=: read -r file include; do
        name=$(sed -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]([^>"]+)[>"].*/\1/' <<<"$include")
        case $name in
        fathom/*) check_house_edge "$file" "$library" "${name#fathom/}" ;;
        *) check_outside_edge "$file" "$library" "$name" ;;
        esac
    done < <(grep -rE '^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]' --include='*.[ch]' "lib/$library/include" "lib/$library/src" || true)
done

# Applications, examples, benchmarks and cross-library tests see public headers alone.
while IFS=: read -r file include; do
    name=$(sed -E 's/.*[<"]fathom\/([^>"]+)[>"].*/\1/' <<<"$include")
    [ -n "${owner[$name]:-}" ] || fail "$file includes fathom/$name, which no library has"
done < <(grep -rE '#include[[:space:]]*[<"]fathom/' --include='*.[ch]' app examples bench test || true)

[ $bad -eq 0 ] || { echo "$bad bad edges" >&2; exit 1; }
echo "${#owner[@]} public headers, no bad edge"
