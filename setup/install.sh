#!/usr/bin/env bash
# Installs what Fathom needs and this machine lacks. Run it as often as you like: it is silent when all is there.
#
#   setup/install.sh         what building, testing and running need
#   setup/install.sh --dev   also what `make lint` and .ci/run need (clang, its tools and runtimes)
#
# Debian packages come from setup/apt-*.txt, as root or through sudo. From npm come tarballs alone, pinned by version and
# SHA-512 in setup/npm.txt and unpacked into .deps/; no install script of theirs is run.
set -euo pipefail
cd "$(dirname "$0")/.."

lists=(setup/apt-build.txt)
for argument in "$@"; do
    case $argument in
    --dev) lists+=(setup/apt-dev.txt) ;;
    *)
        echo "setup/install.sh: unknown argument '$argument'; known: --dev" >&2
        exit 2
        ;;
    esac
done

say() { echo "setup: $*" >&2; }

# Packages of the lists that dpkg does not report as installed.
missing_packages() {
    local package
    grep -hv '^#' "${lists[@]}" | while read -r package; do
        [ -n "$package" ] || continue
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        return 100
    fi
}

# Leaves those in $missing that this distribution has: Chromium, for one, is no package in Ubuntu, and its tests are skipped there.
only_known_packages() {
    local package known=()
    for package in "${missing[@]}"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            known+=("$package")
        else
            say "this distribution has no package $package; what needs it is left out or skipped"
        fi
    done
    missing=("${known[@]}")
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    # npm may come from elsewhere than Debian; any npm will do.
    command -v npm >/dev/null || missing+=(npm)
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "this is not Debian or Ubuntu; please install the equivalents of: ${missing[*]}"
        exit 1
    fi
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    local status=0
    as_root apt-get update -q >"$log" 2>&1 || status=$?
    if [ $status -eq 0 ]; then
        only_known_packages
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" \
            >>"$log" 2>&1 || status=$?
    fi
    if [ $status -ne 0 ]; then
        if [ $status -eq 100 ] && ! grep -q . "$log"; then
            say "may not install packages (not root, no sudo). Ask for: apt-get install ${missing[*]}"
        else
            tail -n 15 "$log" >&2
            say "apt-get failed; it was to install: ${missing[*]}"
        fi
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

# Downloads are tried again, until one has failed for good: then the registry is out of reach, and the others wait for nobody.
tries=3

# fetch_tarball SCRATCH NAME VERSION SHA512: leaves the tarball's path in $tarball; or says why it cannot, and fails.
fetch_tarball() {
    local scratch=$1 name=$2 version=$3 sha512=$4 try
    say "fetching $name $version"
    for ((try = 1; ; try++)); do
        (cd "$scratch" && npm pack "$name@$version" --ignore-scripts >/dev/null 2>npm.log) && break
        if ((try >= tries)); then
            tries=1
            grep -i '^npm err' "$scratch/npm.log" | head -n 4 >&2 || true
            return 1
        fi
        sleep $((2 * try))
    done
    tarball=$(find "$scratch" -name '*.tgz' | head -n 1)
    [ -n "$tarball" ] || return 1
    local got
    got=$(openssl dgst -sha512 -binary "$tarball" | base64 -w0)
    if [ "$got" != "$sha512" ]; then
        say "$name $version has SHA-512 $got, expected $sha512: refused"
        exit 1
    fi
}

# Each line of npm.txt: name version sha512 file-in-tarball target-under-.deps architecture
install_tarballs() {
    local name version sha512 member target architecture unfetched=0
    while read -r name version sha512 member target architecture; do
        case $name in '' | '#'*) continue ;; esac
        [ "$architecture" = any ] || [ "$architecture" = "$(uname -m)" ] || continue
        local stamp=.deps/$target.from
        [ "$(cat "$stamp" 2>/dev/null)" = "$name@$version" ] && [ -e ".deps/$target" ] && continue
        local scratch
        scratch=$(mktemp -d)
        if ! fetch_tarball "$scratch" "$name" "$version" "$sha512"; then
            rm -rf "$scratch"
            say "cannot fetch $name $version from npm; what needs .deps/$target stays off or is skipped"
            unfetched=1
            continue
        fi
        mkdir -p ".deps/$(dirname "$target")"
        tar -xzf "$tarball" -C "$scratch" "$member"
        rm -rf ".deps/$target"
        mv "$scratch/$member" ".deps/$target"
        echo "$name@$version" >"$stamp"
        rm -rf "$scratch"
    done <setup/npm.txt
    if [ $unfetched = 1 ]; then
        say "all else works. For the rest run 'make' again where npm reaches a registry ($(npm config get registry 2>/dev/null);"
        say "'npm config set registry URL' names a mirror), or copy .deps/ from a machine where it did."
    fi
}

install_packages
install_tarballs
