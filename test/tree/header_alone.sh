#!/usr/bin/env bash
# Every public header compiles alone, as C11 and as C++17, with warnings as errors.
set -euo pipefail
cd "${FM_SOURCE_DIR:?}"
cc=$1 cxx=$2
flags=(-fsyntax-only -Wall -Wextra -Wpedantic -Werror -isystem .deps/duckdb)
for folder in lib/*/include; do
    flags+=("-I$folder")
done
bad=0
for header in lib/*/include/fathom/*.h; do
    if [ "${header##*/}" = duckdb_api.h ] && [ ! -f .deps/duckdb/duckdb.h ]; then
        continue
    fi
    # The declaration is for headers of macros alone: ISO C wants one.
    echo "#include \"fathom/${header##*/}\"
extern int something;" | "$cc" -std=c11 "${flags[@]}" -x c - || bad=1
    echo "#include \"fathom/${header##*/}\"" | "$cxx" -std=c++17 "${flags[@]}" -x c++ - || bad=1
done
exit $bad
