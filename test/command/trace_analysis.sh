#!/usr/bin/env bash
# `fathom trace` as people and programs use it: report, gates, salvage, diff, whatif, merge, html, query, and what is refused.
. "$(dirname "$0")/prelude.sh"

# 300 us of computation, 300 us of communication, 100 us of both at once.
cat >a.json <<'J'
{"traceEvents": [
{"ph":"X","cat":"user_annotation","name":"attn(F)","pid":9,"tid":9,"ts":1000,"dur":500},
{"ph":"X","cat":"cuda_runtime","name":"cudaLaunchKernel","pid":9,"tid":9,"ts":1010,"dur":5,"args":{"correlation":1}},
{"ph":"X","cat":"kernel","name":"gemm_bf16","pid":0,"tid":7,"ts":1100,"dur":300,"args":{"stream":7,"correlation":1}},
{"ph":"X","cat":"kernel","name":"ncclDevKernel_AllReduce","pid":0,"tid":8,"ts":1300,"dur":300,"args":{"stream":8}}]}
J
expect 0 "$fathom" trace report a.json --json
says out.txt '"exposed_comm_us": 200'
says out.txt '"overlap_us": 100'
says out.txt '"name": "attn(F)"'
expect 0 "$fathom" trace report a.json
says out.txt 'comm_collective'
gzip -k a.json
expect 0 "$fathom" trace report a.json.gz --json
says out.txt '"span_us": 500'
expect 1 "$fathom" trace report a.json --fail-if 'exposed_pct > 39 or idle_pct > 1'
says err.txt 'gate'
expect 0 "$fathom" trace report a.json --fail-if 'exposed_pct > 41'
expect 1 "$fathom" trace report a.json --fail-if 'nonsense > 1'
says err.txt "no figure 'nonsense'"

# Rules: printed, edited, used; what is wrong in them is named.
"$fathom" trace rules >rules.yaml
sed -i 's/nccl(Dev)?Kernel/no_such_kernel/' rules.yaml
expect 0 "$fathom" trace report a.json --rules rules.yaml --json
says out.txt '"comm_busy_us": 0'
echo 'groups: [{group: a, kind: fast}]' >bad.yaml
expect 1 "$fathom" trace report a.json --rules bad.yaml
says err.txt "bad.yaml:1: kind is 'fast'"

# Damage: where, and what is left.
head -c 400 a.json >cut.json
expect 1 "$fathom" trace report cut.json
says err.txt 'cut.json: byte'
expect 0 "$fathom" trace report cut.json --salvage --json
says out.txt '"damaged": 1'
expect 1 "$fathom" trace report missing.json
says err.txt 'missing.json'

# Comparing and replaying.
sed 's/"dur":300,"args":{"stream":8}/"dur":600,"args":{"stream":8}/' a.json >b.json
expect 0 "$fathom" trace diff a.json b.json --json
says out.txt '"exposed_us": {'
expect 1 "$fathom" trace diff a.json b.json --fail-if 'exposed_us > 5'
expect 0 "$fathom" trace whatif b.json --scale 'comm*0.5' --json
says out.txt '"span_us": 500.0'
expect 1 "$fathom" trace whatif b.json --scale 'comm'
expect 2 "$fathom" trace whatif b.json

# Two ranks as one file; a page; a question.
expect 0 "$fathom" trace merge a.json b.json -o both.json
expect 0 "$fathom" trace report both.json --json
says out.txt '"comm_busy_us": 900'
sed '1s/{/{"distributedInfo":{"rank":1,"world_size":2},/' a.json >r1.json
sed '1s/{/{"distributedInfo":{"rank":0,"world_size":2},/' a.json | gzip >r0.json.gz
expect 0 "$fathom" trace merge r0.json.gz r1.json -o ranks.json
expect 0 "$fathom" trace report ranks.json --json
says out.txt '"label": "rank 1 GPU 0"'
# The clock of one rank is 7 s ahead: four collectives, each begun by one before the other, tell so.
for rank in 0 1; do
    {
        echo "{\"distributedInfo\":{\"rank\":$rank,\"world_size\":2},\"traceEvents\":["
        for i in 1000 2000 3000 4000; do
            echo "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"ncclDevKernel_AllReduce\",\"pid\":0,\"tid\":8,\"ts\":$((i + rank * 7000000 - rank * 90)),\"dur\":$((100 + rank * 90))},"
        done
        echo ']}'
    } >clock$rank.json
done
expect 0 "$fathom" trace report clock0.json clock1.json
says out.txt 'times moved by -7000000.000 us, by 4 collectives'
expect 0 "$fathom" trace report clock0.json clock1.json --json
says out.txt '"clock_shift_us": -7000000'
says out.txt '"last_unit": "rank 0 GPU 0"'
says out.txt '"last_waited_us": 360'
expect 0 "$fathom" trace report clock0.json clock1.json --clocks keep --json
says out.txt '"clock_shift_us": 0'
expect 0 "$fathom" trace html a.json -o page.html
says page.html '</html>'
if "$fathom" info --json --no-bandwidth | grep -A1 '"name": "DuckDB"' | grep -q '"found": true'; then
    expect 0 "$fathom" trace query a.json --format csv 'SELECT name, dur_us FROM kernels ORDER BY ts_us'
    says out.txt 'gemm_bf16,300.0'
    expect 1 "$fathom" trace query a.json 'SELECT nothing'
    says err.txt 'nothing'
else
    echo "SKIP command.trace_analysis: no DuckDB to query with"
fi
