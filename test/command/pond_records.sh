#!/usr/bin/env bash
# `fathom pond gensort`, `sort` and `valsort` together, in memory and through disk, and what is refused.
. "$(dirname "$0")/prelude.sh"

expect 0 "$fathom" pond gensort --records 200000 --skew -o in
expect 1 "$fathom" pond valsort in
says out.txt 'NOT sorted'
checksum=$(grep checksum out.txt)
expect 0 "$fathom" pond sort in -o memory.dat
says out.txt 'in memory'
expect 0 "$fathom" pond sort --memory 8M in -o disk.dat --json
says out.txt '"passes":2'
cmp memory.dat disk.dat
expect 0 "$fathom" pond valsort disk.dat
says out.txt "$checksum"
says out.txt 'records: 200000'
expect 0 "$fathom" pond valsort disk.dat --json
says out.txt '"sorted":true'

# Lines of text: GNU sort agrees.
expect 0 "$fathom" pond gensort --records 5000 --layout ascii -o text
expect 0 "$fathom" pond sort text -o text.dat
LC_ALL=C sort text/part-00000.dat | cmp - text.dat

# What is refused, and leaves the output alone.
head -c 150 text.dat >odd.dat
expect 1 "$fathom" pond sort odd.dat -o text.dat
says err.txt 'odd.dat has 150 bytes; expected a multiple of 100'
expect 0 "$fathom" pond valsort text.dat
expect 1 "$fathom" pond sort --memory 1M text -o x.dat
says err.txt 'expected at least 8388608'
expect 2 "$fathom" pond gensort --records 5000
