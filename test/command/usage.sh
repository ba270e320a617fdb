#!/usr/bin/env bash
# The command line as a newcomer meets it: help everywhere, exit codes, messages on standard error, full output devices.
. "$(dirname "$0")/prelude.sh"

expect 0 "$fathom" --version
grep -qE '^fathom [0-9]+\.[0-9]+\.[0-9]+$' out.txt
expect 0 "$fathom" --version please
grep -qE '^fathom [0-9]' out.txt
expect 2 "$fathom" --versoin
grep -q "did you mean '--version'" err.txt
expect 0 "$fathom" --help
mapfile -t names < <(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' out.txt)
[ ${#names[@]} -ge 5 ]
for name in "${names[@]}"; do
    expect 0 "$fathom" "$name" --help
    grep -q "^Usage: fathom $name" out.txt
    [ ! -s err.txt ]
done
expect 2 "$fathom"
expect 2 "$fathom" inof
grep -q "did you mean 'info'" err.txt
[ ! -s out.txt ]
expect 2 "$fathom" info --jsno
grep -q "did you mean '--json'" err.txt
expect 2 "$fathom" info --no-bandwidt
grep -q "did you mean '--no-bandwidth'" err.txt
expect 0 "$fathom" info --help
grep -q -- '--\[no-\]bandwidth' out.txt
expect 0 "$fathom" -- info --no-bandwidth
: >empty.json
expect 0 "$fathom" info --no-bandwidth --config empty.json
expect 2 "$fathom" $'\e[31mx'
! grep -q $'\e' err.txt || { echo "an escape sequence reached the terminal" >&2; exit 1; }
expect 2 "$fathom" run
expect 1 "$fathom" run no-such-recipe.yaml
grep -q 'no-such-recipe.yaml' err.txt
for words in man --version; do
    if "$fathom" $words >/dev/full 2>err.txt; then
        echo "$words: a full device went unnoticed" >&2
        exit 1
    fi
done
"$fathom" man >fathom.1
! command -v man >/dev/null || man --warnings -l fathom.1 >/dev/null 2>warnings.txt
[ ! -s warnings.txt ] || { cat warnings.txt; exit 1; }
