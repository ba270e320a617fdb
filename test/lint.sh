#!/usr/bin/env bash
# Format, clang-tidy, shell and spelling. `test/lint.sh --changed [BASE]` runs clang-tidy on the C files changed since BASE
# (default: where HEAD left origin/main, or on main itself the state a day before HEAD); format and the rest always see all.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t c_files < <(git ls-files '*.c' '*.h')
mapfile -t shell_files < <(git ls-files '*.sh' '.ci/run')
bad=0

clang-format --dry-run --Werror "${c_files[@]}" || bad=1
shellcheck -x -P SCRIPTDIR -e SC2086,SC2046,SC2016 "${shell_files[@]}" || bad=1
git ls-files '*.md' '*.c' '*.h' '*.sh' '*.txt' '*.cmake' '*.yaml' |
    xargs codespell -q 3 -L 'fo,te,ans,nd,ba,hist,inout,datas,wont,wieght' || bad=1

[ -f build-dev/compile_commands.json ] || cmake --preset dev >/dev/null
mapfile -t sources < <(git ls-files '*.c')
if [ "${1:-}" = --changed ]; then
    base=${2:-$(git merge-base origin/main HEAD 2>/dev/null || true)}
    if [ -z "$base" ] || [ "$(git rev-parse "$base")" = "$(git rev-parse HEAD)" ]; then
        base=$(git rev-list -1 --before="$(($(git log -1 --format=%ct) - 86400))" HEAD)
    fi
    [ -z "$base" ] || mapfile -t sources < <(git diff --name-only --diff-filter=d "$base" -- '*.c')
fi
# Only what the build compiles here has flags to check it with.
mapfile -t sources < <(for file in "${sources[@]}"; do grep -qF "/$file\"" build-dev/compile_commands.json && echo "$file"; done)
if [ ${#sources[@]} -gt 0 ]; then
    printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build-dev --quiet --extra-arg=-Wno-unknown-warning-option 2>/dev/null >build-dev/tidy.log || bad=1
    grep -E '(error|warning):' build-dev/tidy.log | sort -u || true
fi
[ $bad -eq 0 ] && echo "lint: ${#c_files[@]} C files, ${#sources[@]} through clang-tidy, ${#shell_files[@]} scripts: clean"
exit $bad
