#!/usr/bin/env bash
# The examples of systemd units: systemd reads them, and the commands that they start know their options.
set -euo pipefail
cd "${FM_SOURCE_DIR:?}"
fathom=${1:?}
command -v systemd-analyze >/dev/null || { echo "SKIP systemd_units: systemd-analyze is not there"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for unit in packaging/systemd/*.service; do
    # Installed programs have another place; what is checked is this build's.
    sed "s|/usr/bin/fathom|$fathom|" "$unit" >"$scratch/$(basename "${unit/@/@101}")"
done
said=$(systemd-analyze verify --man=no "$scratch"/*.service 2>&1 | grep -F "$scratch" || true)
[ -z "$said" ] || { echo "$said" >&2; exit 1; }
# Every option of a line that is started is one that the command's help knows.
for unit in packaging/systemd/*.service; do
    line=$(sed -n 's|^ExecStart=/usr/bin/fathom ||p' "$unit")
    read -r -a words <<<"$line"
    verbs=()
    for word in "${words[@]}"; do
        case $word in
            --*) "$fathom" "${verbs[@]}" --help | grep -qE -e "(^| )$word\b" || { echo "$unit: $word is unknown" >&2; exit 1; } ;;
            [a-z]*) [[ ${#verbs[@]} -gt 2 || $word == json ]] || verbs+=("$word") ;;
        esac
    done
done
