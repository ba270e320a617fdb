#!/usr/bin/env bash
# `fathom serve` over real sockets: answers whole and streamed, errors in the API's shape, hostile input, many clients at once
# of whom some read slowly and some hang up, and a graceful end.
set -euo pipefail
fathom=$1
golden=${FM_SHARED_DIR:-${FM_SOURCE_DIR:?}/../shared}/golden/model/v3
skip() { echo "SKIP command.serve: $1"; exit 77; }
[ -f "$golden/model.safetensors" ] || skip "the golden models are not here"
command -v node >/dev/null || skip "node is not installed"
scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
cd "$scratch"
fail() { echo "serve: $*" >&2; [ ! -f err.txt ] || tail -5 err.txt >&2; exit 1; }

# The same engine under a load of its own.
"$fathom" bench serve --model "$golden" --requests 12 --rate 200 --prompt 20 --shared 30 --answer 8 --running 2 --threads 1 \
    --json >bench.json
node -e 'const b = JSON.parse(require("fs").readFileSync("bench.json"));
    process.exit(b.requests === 12 && b.cache_hits > 0.2 && b.first_token_ms_median > 0 ? 0 : 1)' ||
    fail "bench serve: $(cat bench.json)"
# Experts that belong to threads, planned anew while it runs: how uneven that is, beside experts in order.
OMP_WAIT_POLICY=passive "$fathom" bench serve --model "$golden" --requests 12 --rate 200 --prompt 20 --shared 30 --answer 8 --threads 2 --expert-workers 2 \
    --replan 4 --json >bench.json
node -e 'const b = JSON.parse(require("fs").readFileSync("bench.json"));
    process.exit(b.requests === 12 && b.expert_workers === 2 && b.expert_plans > 0 && b.expert_imbalance >= 1 &&
        b.expert_imbalance <= b.expert_imbalance_in_order ? 0 : 1)' || fail "bench serve --expert-workers: $(cat bench.json)"
echo '[[0, 5, 6], [0.01, 500, 2]]' >arrivals.json
"$fathom" bench serve --model "$golden" --arrivals arrivals.json 2>bad.txt && fail "a prompt beyond the context was taken"
grep -q 'prompt tokens is 500' bad.txt || fail "the bad arrival was not named: $(cat bad.txt)"

# A random model with a head to guess with, in FP8; and what does not fit into memory is said at once, with the sizes.
sed 's/"num_hidden_layers"/"num_nextn_predict_layers": 1, &/' "$golden/config.json" >drafting.json
"$fathom" bench serve --config drafting.json --draft --dtype fp8 --cache-dtype fp8 --requests 4 --rate 500 --prompt 10 --answer 6 \
    --threads 1 --json >bench.json
node -e 'const b = JSON.parse(require("fs").readFileSync("bench.json"));
    process.exit(b.requests === 4 && b.drafted_tokens > 0 ? 0 : 1)' || fail "bench serve --draft: $(cat bench.json)"
sed 's/"moe_intermediate_size": 128/"moe_intermediate_size": 1000000/; s/"hidden_size": 128/"hidden_size": 65536/' \
    "$golden/config.json" >large.json
"$fathom" bench serve --config large.json --dtype fp8 2>bad.txt && fail "a model beyond the memory was taken"
grep -q 'GiB of memory; .* GiB are available' bad.txt || fail "the sizes were not named: $(cat bad.txt)"
mkdir large
cp "$golden/config.json" large/
truncate -s 4T large/model.safetensors
"$fathom" serve --model large --port 0 2>bad.txt && fail "weights beyond the memory were taken"
grep -q 'have 4.* of memory are available' bad.txt || fail "the sizes were not named: $(cat bad.txt)"

mkdir model
ln -s "$golden/config.json" "$golden/model.safetensors" model/
# One special token, and the 256 bytes behind it: byte b has the id b + 1.
printf 'any text' >text
"$fathom" tokenizer train --vocab 257 --out model/tokenizer.json text >/dev/null
cat >model/tokenizer_config.json <<'J'
{"chat_template": "{% for m in messages %}{{ m['role'] + ':' + m['content'] }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"}
J
printf '# keys\nsecret-one\nsecret-two\n' >keys
chmod 644 keys
# Starts a server with these options; sets `server` and `port`.
start() {
    : >out.txt
    "$fathom" serve --model model --port 0 --threads "${threads:-1}" "$@" >out.txt 2>err.txt &
    server=$!
    for _ in $(seq 600); do
        grep -q serving out.txt && break
        kill -0 "$server" 2>/dev/null || fail "the server did not start"
        sleep 0.1
    done
    port=$(sed -n 's/.*:\([0-9]*\)$/\1/p' out.txt)
}
start --api-key-file keys --running 8 --waiting 100 --cache 256KiB --body 100KB --receive-timeout 2
grep -q 'others can read keys' err.txt || fail "no warning about the key file"
"$fathom" serve --model model --port "$port" >second.txt 2>&1 && fail "a second server on the port started"
grep -q 'another program does' second.txt || fail "the port in use was not named: $(cat second.txt)"

cat >client.mjs <<'JS'
import assert from 'node:assert';
import fs from 'node:fs';
import net from 'node:net';
const port = Number(process.argv[2]), base = `http://127.0.0.1:${port}`;
const auth = { Authorization: 'Bearer secret-two' };
const post = (path, body, headers = auth, signal = undefined) =>
  fetch(base + path, { method: 'POST', headers, signal, body: typeof body === 'string' ? body : JSON.stringify(body) });
const ids = (choice) => choice.logprobs.content.map((item) => item.bytes[0] + 1);
const expected = process.argv[3].split(',').map(Number), prompt = process.argv[4].split(',').map(Number);
const events = async (reply) => (await reply.text()).trim().split('\n\n').map((line) => line.slice(6));

// The tokens of `fathom generate`.
let reply = await post('/v1/completions', { prompt, max_tokens: expected.length, temperature: 0, logprobs: 1 });
assert.equal(reply.status, 200);
let answer = await reply.json();
assert.deepEqual(ids(answer.choices[0]), expected);
assert.deepEqual(answer.usage.prompt_tokens, prompt.length);
assert.equal(answer.usage.completion_tokens, expected.length);
// Twice the same prompt: the second finds the first one's cache.
answer = await (await post('/v1/completions', { prompt, max_tokens: 4, temperature: 0, logprobs: 1 })).json();
assert.deepEqual(ids(answer.choices[0]), expected.slice(0, 4));
assert.equal(answer.usage.prompt_tokens_details.cached_tokens, prompt.length - 1);

// A chat, whole and streamed, gives one text; seeds repeat; n differ.
const messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Hi' }];
const chat = { messages, max_tokens: 12, seed: 7, temperature: 1, n: 3 };
const whole = await (await post('/v1/chat/completions', chat)).json();
assert.equal(whole.object, 'chat.completion');
assert.equal(whole.choices.length, 3);
assert.notEqual(whole.choices[0].message.content, whole.choices[1].message.content);
reply = await post('/v1/chat/completions', { ...chat, stream: true, stream_options: { include_usage: true } });
assert.match(reply.headers.get('content-type'), /^text\/event-stream/);
const lines = await events(reply), texts = ['', '', ''], reasons = [];
assert.equal(lines.pop(), '[DONE]');
for (const event of lines.map((line) => JSON.parse(line))) {
  for (const choice of event.choices) {
    texts[choice.index] += choice.delta.content || '';
    if (choice.finish_reason) reasons[choice.index] = choice.finish_reason;
  }
  if (event.usage) assert.deepEqual(event.usage.completion_tokens, whole.usage.completion_tokens);
}
assert.deepEqual(texts, whole.choices.map((choice) => choice.message.content));
assert.deepEqual(reasons, whole.choices.map((choice) => choice.finish_reason));

// A stop text ends the answer before it, in a stream as well.
const plain = await (await post('/v1/completions', { prompt: 'abc', max_tokens: 40, temperature: 0 })).json();
const letters = plain.choices[0].text.match(/[!-~]/g) || [];
assert.ok(letters.length > 0, 'the golden model writes some ASCII');
const stop = letters[0], before = plain.choices[0].text.split(stop)[0];
answer = await (await post('/v1/completions', { prompt: 'abc', max_tokens: 40, temperature: 0, stop: [stop, 'zzz'] })).json();
assert.equal(answer.choices[0].text, before);
assert.equal(answer.choices[0].finish_reason, 'stop');
reply = await post('/v1/completions', { prompt: ['abc', 'abc'], max_tokens: 40, temperature: 0, stop, stream: true });
const streamed = ['', ''];
for (const line of (await events(reply)).slice(0, -1))
  for (const choice of JSON.parse(line).choices) streamed[choice.index] += choice.text;
assert.deepEqual(streamed, [before, before]);

// Errors have the API's shape.
const refused = [
  [400, '{"prompt": ', /body:1/], [400, '[]', /the body/], [400, { prompt: 5 }, /prompt/], [400, {}, /prompt is missing/],
  [400, { prompt: 'a', max_tokens: 'x' }, /max_tokens/], [400, { prompt: 'a', max_tokens: 0 }, /max_tokens/],
  [400, { prompt: [1, 999] }, /token/], [400, { prompt: 'a', n: 99 }, /n is/], [400, { prompt: 'a', echo: true }, /echo/],
  [400, { prompt: 'a', temperature: -1 }, /temperature/], [400, { prompt: 'a', stop: ['1', '2', '3', '4', '5'] }, /stop/],
  [400, { prompt: 'x'.repeat(500) }, /context/], [404, { model: 'other', prompt: 'a' }, /other/],
  [400, { prompt: 'a', tools: [{}] }, /tools/], [400, '['.repeat(5000), /body/], [400, '', /body/],
];
for (const [status, body, message] of refused) {
  reply = await post('/v1/completions', body);
  const error = (await reply.json()).error;
  assert.equal(reply.status, status, JSON.stringify(body).slice(0, 80) + error.message);
  assert.match(error.message, message);
  assert.ok('type' in error && 'code' in error && 'param' in error);
}
for (const bad of [{ messages: [] }, { messages: 'x' }, { messages: [{ role: 'king', content: 'x' }] },
  { messages: [{ role: 'user', content: 5 }] }, { messages: [{ role: 'user' }] }])
  assert.equal((await post('/v1/chat/completions', bad)).status, 400);
assert.equal((await post('/v1/completions', { prompt: 'a' }, {})).status, 401);
assert.equal((await post('/v1/completions', { prompt: 'a' }, { Authorization: 'Bearer secret-onE' })).status, 401);
assert.equal((await fetch(base + '/v1/models', { headers: auth })).status, 200);
assert.equal((await fetch(base + '/v1/models/model', { headers: auth })).status, 200);
assert.equal((await fetch(base + '/v1/models/other', { headers: auth })).status, 404);
assert.equal((await fetch(base + '/v1/completions', { headers: auth })).status, 405);
assert.equal((await fetch(base + '/nothing')).status, 404);
assert.equal((await fetch(base + '/', { method: 'DELETE' })).status, 405);
assert.match(await (await fetch(base + '/')).text(), /<title>Fathom chat/);
assert.equal(await (await fetch(base + '/health')).text(), 'ok\n');

// Raw bytes: what no client would send. Each is answered or cut; none may hang.
const raw = (bytes, { every = 0, limit = 60000 } = {}) => new Promise((resolve, reject) => {
  const socket = net.connect(port, '127.0.0.1');
  let got = '', timer, at = 0;
  const watch = setTimeout(() => { socket.destroy(); reject(new Error('hung: ' + String(bytes).slice(0, 60))); }, limit);
  socket.on('data', (data) => { got += data; });
  socket.on('error', () => {});
  socket.on('close', () => { clearTimeout(watch); clearInterval(timer); resolve(got); });
  if (every) timer = setInterval(() => { if (at < bytes.length) socket.write(bytes[at++]); }, every);
  else socket.write(bytes);
});
const head = 'POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-one\r\n';
assert.match(await raw(head + 'Content-Length: 104857600\r\n\r\n'), /^HTTP\/1.1 413/);
await Promise.all([
  raw(head + 'Transfer-Encoding: chunked\r\n\r\n' + ('4000\r\n' + 'x'.repeat(0x4000) + '\r\n').repeat(20)),
  raw('GET / HTTP/1.1\r\n' + 'X-Flood: ' + 'y'.repeat(200000) + '\r\n\r\n'),
  raw('GET / HTTP/1.1\r\n' + Array.from({ length: 3000 }, (_, i) => `X-${i}: y\r\n`).join('') + '\r\n'),
  raw('\x00\xff\x16\x03garbage\r\n\r\n'),
  raw(head + 'Content-Length: 10\r\n\r\n{"pro'), // the rest never comes
  raw(head.split(''), { every: 150 }), // a byte at a time: cut after the time to receive
]);
assert.equal((await fetch(base + '/health')).status, 200);

// 64 streams at once; some read nothing for a while, some hang up in the middle.
const one = async (i) => {
  const body = { prompt: prompt.slice(0, 3 + i % 5), max_tokens: 20 + i % 30, temperature: 0, ignore_eos: true, logprobs: 0, stream: true };
  const hangUp = i % 4 === 3, controller = new AbortController();
  const reply = await post('/v1/completions', body, auth, controller.signal);
  assert.equal(reply.status, 200);
  if (hangUp) {
    await reply.body.getReader().read();
    controller.abort();
    return;
  }
  if (i % 4 === 1) await new Promise((resolve) => setTimeout(resolve, 300));
  const got = [];
  for (const line of (await events(reply)).slice(0, -1))
    for (const choice of JSON.parse(line).choices) got.push(...(choice.logprobs ? ids(choice) : []));
  assert.equal(got.length, body.max_tokens);
  return [i % 5, got];
};
const crowd = async () => {
  const results = (await Promise.all(Array.from({ length: 64 }, (_, i) => one(i)))).filter(Boolean);
  for (const [kind, got] of results) // one prompt, one text, whoever ran beside it
    for (const [other, more] of results)
      if (kind === other) assert.deepEqual(got.slice(0, more.length), more.slice(0, got.length));
  for (let tries = 0; ; tries++) {
    const metrics = await (await fetch(base + '/metrics')).text();
    const value = (name) => Number(metrics.match(new RegExp(`^fathom_${name} (.*)$`, 'm'))[1]);
    if (value('requests_running') + value('requests_waiting') + value('cache_blocks_running') === 0 && value('http_exchanges') === 1) {
      assert.ok(value('first_token_seconds_count') >= 64 && value('tokens_total') > 500);
      break;
    }
    assert.ok(tries < 600, 'requests were left behind');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const status = fs.readFileSync(`/proc/${process.argv[5]}/status`, 'utf8');
  return ['Threads', 'VmRSS'].map((name) => Number(status.match(new RegExp(`^${name}:\\s*(\\d+)`, 'm'))[1]));
};
// A second crowd needs no thread, and hardly any memory, that the first has not left.
const [threads, kib] = await crowd(), [threads_later, kib_later] = await crowd();
assert.equal(threads_later, threads);
assert.ok(kib_later < kib + Number(process.argv[6]), `${kib} KiB, then ${kib_later}`);
console.log('served');
JS
prompt=5,66,102,7,33,90,12,240,77,150,31,8,99,201,45,60,188,3,127,16
expected=$("$fathom" generate --model "$golden" --ids $prompt --max-tokens 24 --threads 1)
files=$(find "/proc/$server/fd" | wc -l)
more_kib=16384
! grep -qaE 'AddressSanitizer|ThreadSanitizer' "$fathom" || more_kib=4194304 # they keep what is freed
timeout 240 node client.mjs "$port" "$expected" $prompt "$server" $more_kib || fail "the client found a fault"
for _ in $(seq 600); do # cut connections close when the server has seen it
    [ "$(find "/proc/$server/fd" | wc -l)" -gt "$files" ] || break
    sleep 0.1
done
[ "$(find "/proc/$server/fd" | wc -l)" -le "$files" ] || fail "files were left open"

# A stop while answers run: they end, and new ones are refused.
cat >stop.mjs <<'JS'
const [base, pid] = [`http://127.0.0.1:${process.argv[2]}`, Number(process.argv[3])];
const headers = { Authorization: 'Bearer secret-one' };
const body = JSON.stringify({ prompt: 'abc', max_tokens: 100, n: 8, ignore_eos: true });
const reply = fetch(base + '/v1/completions', { method: 'POST', headers, body });
while (!/^fathom_requests_running [1-9]/m.test(await (await fetch(base + '/metrics')).text()));
process.kill(pid, 'SIGTERM');
const answer = await (await reply).json();
if (answer.choices.length !== 8) throw new Error(JSON.stringify(answer));
JS
timeout 60 node stop.mjs "$port" "$server" || fail "the answers that ran when the server stopped were lost"
wait "$server" || fail "the server failed at its end"
server=
grep -q '"path":"/v1/completions","status":200' err.txt || fail "the access log lacks a line"
grep -q 'Be brief' err.txt && fail "the access log holds a prompt"

# Killed and started again, it finds what prompts had in common with this one on disk, in FP8 too, and says the same: also with
# experts that belong to threads, whose loads /metrics tells.
cat >again.mjs <<'JS'
const prompt = Array.from({ length: 100 }, (_, i) => (i * 37 + 11) % 256);
const body = JSON.stringify({ prompt, max_tokens: 20, temperature: 0, ignore_eos: true, logprobs: 0 });
const reply = await fetch(`http://127.0.0.1:${process.argv[2]}/v1/completions`, { method: 'POST', body });
const answer = await reply.json();
console.log(answer.usage.prompt_tokens_details.cached_tokens, JSON.stringify(answer.choices[0].logprobs.content));
JS
cat >experts.mjs <<'JS'
const metrics = await (await fetch(`http://127.0.0.1:${process.argv[2]}/metrics`)).text();
const value = (name) => Number(metrics.match(new RegExp(`^fathom_expert_${name} (.*)$`, 'm'))[1]);
const planned = value('imbalance{placement="planned"}'), in_order = value('imbalance{placement="in_order"}');
const loads = [0, 1].map((worker) => value(`load_total{worker="${worker}"}`));
if (!(planned >= 1 && planned <= in_order && loads[0] > 0 && loads[1] > 0 && value('busiest_total') < loads[0] + loads[1]))
  throw new Error(metrics);
JS
export OMP_WAIT_POLICY=passive # threads that spin hold up those who compute where cores are few
for dtype in f32 fp8; do
    for run in first second; do
        placed=
        [ $run = first ] || placed='--expert-workers 2 --replan 4'
        # shellcheck disable=SC2086 # several words, or none
        threads=2 start --prefix-cache store --prefix-cache-size 64MiB --dtype $dtype $placed
        timeout 120 node again.mjs "$port" >$run.txt || fail "the server with a store did not answer"
        [ $run = first ] || timeout 120 node experts.mjs "$port" || fail "/metrics tells no loads of experts"
        kill -9 "$server"
        wait "$server" 2>/dev/null || true
        server=
    done
    grep -q '^0 ' first.txt || fail "an empty store had blocks: $(cut -c1-9 first.txt)"
    grep -q '^64 ' second.txt || fail "the store did not outlive the server: $(cut -c1-9 second.txt)"
    [ "$(cut -d' ' -f2- first.txt)" = "$(cut -d' ' -f2- second.txt)" ] || fail "a stored prefix gave another answer"
done
echo "serve: passed"
