#!/usr/bin/env bash
# `fathom pond run` with executors elsewhere: started by a command, and by a real Slurm of four nodes on this machine, of which one
# dies while the job runs.
. "$(dirname "$0")/prelude.sh"
daemons=()
finish() {
    [ ${#daemons[@]} = 0 ] || kill "${daemons[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT
if ! "$fathom" info --json --no-bandwidth | grep -A1 '"name": "DuckDB"' | grep -q '"found": true'; then
    echo "SKIP command.pond_slurm: no DuckDB to run jobs with"
    exit 0
fi

job() { # tasks, output
    cat <<J
work: $scratch/work
steps:
  - {source: query, query: "SELECT range AS id, sum(range * 7) OVER (ORDER BY hash(range)) AS s FROM range({partition} * 30000, {partition} * 30000 + 30000)", partitions: $1}
  - {repartition: hash, by: id, partitions: 3}
  - {sink: parquet, path: $scratch/$2}
J
}

# A command that starts two processes here, which join over TCP with the run's key.
job 6 launched >launched.yaml
# shellcheck disable=SC2016 # the command's shell expands them
expect 0 "$fathom" pond run --json --executors 2 --listen 127.0.0.1:0 --launch \
    'for i in $(seq {count}); do {fathom} pond executor --join {address} --key {key} >/dev/null 2>&1 & done; echo 1' launched.yaml
says out.txt '"moved_rows":180000'
expect 0 "$fathom" pond status work
says out.txt 'job: done'
says out.txt 'tasks: 9 of 9'
job 2 never >never.yaml
expect 1 "$fathom" pond run --executors 2 --launch 'exit 3' --listen 127.0.0.1:0 never.yaml
says err.txt 'exit 3'
expect 1 "$fathom" pond run --slurm 'partition=a; rm -rf x' never.yaml
says err.txt 'expected options of sbatch'

if ! command -v slurmctld slurmd sbatch >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "SKIP command.pond_slurm: no daemons of Slurm, or no root to start them"
    exit 0
fi
host=$(hostname -s)
port=$((20000 + $$ % 20000))
mkdir state
cat >slurm.conf <<C
ClusterName=fathom
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation=$scratch/state
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmctldLogFile=$scratch/slurmctld.log
SlurmdPidFile=$scratch/slurmd-%n.pid
SlurmdLogFile=$scratch/slurmd-%n.log
SlurmdSpoolDir=$scratch/spool-%n
SlurmdTimeout=3
ReturnToService=2
MpiDefault=none
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 3)) CPUs=1
NodeName=n3 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 4)) CPUs=1
PartitionName=batch Nodes=n[0-3] Default=YES MaxTime=10 State=UP
C
export SLURM_CONF=$scratch/slurm.conf
slurmctld -D >ctld.txt 2>&1 &
daemons+=($!)
declare -A slurmd
for i in 0 1 2 3; do
    mkdir "spool-n$i"
    slurmd -D -N n$i >"n$i.txt" 2>&1 &
    slurmd[n$i]=$!
    daemons+=($!)
done
for _ in $(seq 600); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 4 ] && break
    sleep 0.1
done
[ "$(sinfo -h -t idle -o %D)" = 4 ] || { echo "Slurm's nodes are not idle: $(sinfo) $(tail -3 slurmctld.log)" >&2; exit 1; }

job 48 slurm >slurm.yaml
"$fathom" pond run --json --executors 4 --slurm partition=batch --listen "127.0.0.1:0" slurm.yaml >run.txt 2>run.err &
run=$!
before=$(find work/tasks -mindepth 1 -maxdepth 1 | wc -l)
for _ in $(seq 1200); do
    [ "$(find work/tasks -mindepth 1 -maxdepth 1 | wc -l)" -gt $((before + 4)) ] && break
    sleep 0.05
done
# A node dies: its daemon, the step's daemon, and the executor.
victim=$(pgrep -f "pond executor --join.*$scratch" | head -n 1)
[ -n "$victim" ] || { echo "no executor runs: $(cat run.txt run.err)" >&2; exit 1; }
node=$(tr '\0' '\n' <"/proc/$victim/environ" | sed -n 's/^SLURMD_NODENAME=//p')
kill -9 "${slurmd[$node]}" "$(ps -o ppid= -p "$victim" | tr -d ' ')" "$victim"
wait $run || { echo "the run failed: $(cat run.txt run.err)" >&2; exit 1; }
says run.txt '"moved_rows":1440000'
expect 0 "$fathom" pond sql --format csv "SELECT count(*), count(DISTINCT id) FROM 'slurm/*.parquet'"
says out.txt '1440000,1440000'
for _ in $(seq 600); do
    [ -z "$(squeue -h)" ] && break
    sleep 0.1
done
[ -z "$(squeue -h)" ] || { echo "jobs are left: $(squeue)" >&2; exit 1; }
