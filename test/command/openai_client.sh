#!/usr/bin/env bash
# OpenAI's own JavaScript client, unmodified (setup/npm.txt), on `fathom serve`: it lists, completes, chats, streams, and
# throws the errors that it throws elsewhere.
set -euo pipefail
fathom=$1
client=${FM_SOURCE_DIR:?}/.deps/openai/index.mjs
golden=${FM_SHARED_DIR:-$FM_SOURCE_DIR/../shared}/golden/model/v3
skip() { echo "SKIP command.openai_client: $1"; exit 77; }
[ -f "$client" ] || skip "set-up could not fetch the client from npm"
[ -f "$golden/model.safetensors" ] || skip "the golden models are not here"
command -v node >/dev/null || skip "node is not installed"
scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait; rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir model
ln -s "$golden/config.json" "$golden/model.safetensors" model/
printf 'any text' >text
"$fathom" tokenizer train --vocab 257 --out model/tokenizer.json text >/dev/null
printf '{"chat_template": "{%% for m in messages %%}{{ m.content }}{%% endfor %%}"}' >model/tokenizer_config.json
printf 'k\n' >keys
chmod 600 keys
"$fathom" serve --model model --name tiny --port 0 --api-key-file keys --threads 1 >out.txt 2>err.txt &
server=$!
for _ in $(seq 600); do
    grep -q serving out.txt && break
    sleep 0.1
done
cat >talk.mjs <<'JS'
import assert from 'node:assert';
const { default: OpenAI } = await import(process.argv[3]);
const connect = (apiKey) => new OpenAI({ baseURL: `http://127.0.0.1:${process.argv[2]}/v1`, apiKey, maxRetries: 0 });
const client = connect('k');
assert.equal((await client.models.list()).data[0].id, 'tiny');
const ask = { model: 'tiny', messages: [{ role: 'user', content: 'Hello' }], max_tokens: 20, temperature: 1, seed: 3 };
const whole = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2 });
assert.equal(whole.choices[0].logprobs.content[0].top_logprobs.length, 2);
let text = '', usage;
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content || '';
  usage = chunk.usage || usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
assert.equal((await client.chat.completions.stream(ask).finalChatCompletion()).choices[0].message.content, text);
assert.equal(typeof (await client.completions.create({ model: 'tiny', prompt: 'abc', max_tokens: 5 })).choices[0].text, 'string');
const fails = (promise, kind, text) => assert.rejects(promise, (error) => error instanceof kind && text.test(error.message));
await fails(client.chat.completions.create({ ...ask, model: 'other' }), OpenAI.NotFoundError, /other/);
await fails(client.chat.completions.create({ ...ask, temperature: -5 }), OpenAI.BadRequestError, /temperature/);
await fails(connect('wrong').models.list(), OpenAI.AuthenticationError, /key/);
console.log("OpenAI's client: passed");
JS
timeout 60 node talk.mjs "$(sed -n 's/.*:\([0-9]*\)$/\1/p' out.txt)" "$client"
