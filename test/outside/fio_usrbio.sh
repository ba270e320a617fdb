#!/usr/bin/env bash
# Builds 3FS's engine for fio as it is, against the library here, and runs jobs with it that verify what they wrote:
#
#     test/outside/fio_usrbio.sh BUILD ENGINE FIO DIR
#
# BUILD: a build with shared libraries (build). ENGINE: 3FS's benchmarks/fio_usrbio. FIO: fio's sources, configured, of the
# version that is installed. DIR: as of on_mount.sh. The exit status is 0 when all is as it was written.
set -euo pipefail
[ $# = 4 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$(realpath "$1") engine=$(realpath "$2") fio=$(realpath "$3") dir=$4
here=$(realpath "$(dirname "$0")")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp "$engine/hf3fs_usrbio.cpp" "$engine/Makefile" "$scratch"
make -C "$scratch" HF3FS_LIB_DIR="$build/lib/fs" HF3FS_INCLUDE_DIR="$here/../../lib/fs/include" FIO_SRC_DIR="$fio"
# The engine takes a batch at a time, waits for all of it, and does not make files. It does not keep reads and writes of one
# job apart, nor does fio then know what it wrote, on any file system: so a job writes, and reads afterwards.
cat >"$scratch/run" <<'E2'
set -eu
for job in 0 1; do
    head -c 67108864 /dev/zero >v.$job.0
done
batch="--iodepth=64 --iodepth_batch_submit=64 --iodepth_batch_complete_min=64 --iodepth_batch_complete_max=64"
usrbio="--ioengine=external:$ENGINE --mountpoint=$(df --output=target . | tail -1)"
common="--name=v --directory=$PWD --filename_format=v.\$jobnum.0 --size=64m --numjobs=2 --verify=crc32c --verify_fatal=1"
fio $usrbio $batch $common --rw=randwrite --bs=64k
fio $usrbio $batch $common --rw=randwrite --bsrange=4k-64k
# What the mount reads is what rings wrote, and the other way round.
fio --ioengine=psync $common --rw=randwrite --bsrange=4k-64k --verify_only
fio --ioengine=psync $common --rw=randwrite --bs=16k --do_verify=0
fio $usrbio $batch $common --rw=randwrite --bs=16k --verify_only
E2
ENGINE=$scratch/hf3fs_usrbio.so "$here/on_mount.sh" "$build/fathom" "$dir" bash "$scratch/run"
