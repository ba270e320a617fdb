# shellcheck shell=bash
# Sourced by the tests of the command, whose first argument is the command: a scratch folder to work in, and what they judge by.
set -euo pipefail
# shellcheck disable=SC2034 # those who source this use it
fathom=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

expect() { # exit status, command...: leaves what the command said in out.txt and err.txt
    local want=$1 got=0
    shift
    "$@" >out.txt 2>err.txt || got=$?
    [ $got = "$want" ] || { echo "$*: exit $got, expected $want: $(cat out.txt err.txt)" >&2; exit 1; }
}
says() { # file, text
    grep -qF -e "$2" "$1" || { echo "$1 lacks '$2': $(cat "$1")" >&2; exit 1; }
}
