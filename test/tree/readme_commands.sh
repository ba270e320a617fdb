#!/usr/bin/env bash
# Runs the commands of README.md's ```sh blocks as written, in order, in a scratch copy's place: build/fathom stands for the
# installed `fathom`. `make` lines are checked to name a target (the caller is itself below `make test`), and lines that
# need another machine's state (git clone, cd, sudo) are left out.
set -euo pipefail
cd "${FM_SOURCE_DIR:?}"
build=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
count=0
while read -r line; do
    line=${line%%  #*}
    case $line in
    '' | '#'* | 'git clone'* | 'cd '* | sudo*) continue ;;
    make*)
        make -n $(cut -d' ' -f2- <<<"$line ") >/dev/null || { echo "README: '$line' is no target" >&2; exit 1; }
        ;;
    *)
        echo "+ $line"
        (
            cd "$scratch"
            ln -sfn "$FM_SOURCE_DIR/examples" "$FM_SOURCE_DIR/recipes" .
            ln -sfn "$build" build
            PATH="$build:$PATH" bash -euo pipefail -c "$line" >"$scratch/out" 2>&1
        ) || { cat "$scratch/out"; echo "README: '$line' failed" >&2; exit 1; }
        ;;
    esac
    count=$((count + 1))
done < <(awk '/^```sh/ { on = 1; next } /^```/ { on = 0 } on' README.md)
[ $count -ge 3 ] || { echo "README.md has only $count commands" >&2; exit 1; }
echo "$count commands"
