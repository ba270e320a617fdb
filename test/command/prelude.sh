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

scrape() { # file with "metrics at http://HOST:PORT/metrics": what is answered there, into out.txt
    local at
    at=$(sed -n 's|.*metrics at http://\([0-9.:]*\)/metrics.*|\1|p' "$1")
    exec 3<>"/dev/tcp/${at%:*}/${at##*:}"
    printf 'GET /metrics HTTP/1.1\r\n\r\n' >&3
    cat <&3 >out.txt
    exec 3>&-
}
