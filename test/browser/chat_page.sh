#!/usr/bin/env bash
# The chat page in headless Chromium, on a server of its own: an answer streams in, Stop and Escape end one, parameters are
# sent, errors are shown, light and dark, a phone's width. Skipped where there is no Chromium.
set -euo pipefail
fathom=$1
golden=${FM_SHARED_DIR:-${FM_SOURCE_DIR:?}/../shared}/golden/model/v3
skip() { echo "SKIP browser.chat_page: $1"; exit 0; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[ -n "$browser" ] || skip "no Chromium is installed"
command -v node >/dev/null || skip "node is not installed"
flags=()
node -e 'process.exit(typeof WebSocket === "function" ? 0 : 1)' || flags=(--experimental-websocket)
node "${flags[@]}" -e 0 2>/dev/null || skip "this node has no WebSocket"
[ -f "$golden/model.safetensors" ] || skip "the golden models are not here"
scratch=$(mktemp -d)
server=
chromium=
clean_up() {
    # shellcheck disable=SC2086 # none, one or two numbers
    [ -z "$chromium$server" ] || kill $chromium $server 2>/dev/null || true
    wait
    rm -rf "$scratch"
}
trap clean_up EXIT
cd "$scratch"
fail() { echo "chat_page: $*" >&2; exit 1; }

mkdir model
ln -s "$golden/config.json" "$golden/model.safetensors" model/
printf 'any text' >text
"$fathom" tokenizer train --vocab 257 --out model/tokenizer.json text >/dev/null
cat >model/tokenizer_config.json <<'J'
{"chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}
J
"$fathom" serve --model model --port 0 --threads 1 >out.txt 2>err.txt &
server=$!
"$browser" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update \
    --disable-sync --user-data-dir="$scratch/profile" --window-size=1200,900 --remote-debugging-port=0 about:blank \
    >/dev/null 2>browser.txt &
chromium=$!
for _ in $(seq 600); do
    grep -q serving out.txt && grep -q 'DevTools listening' browser.txt && break
    sleep 0.1
done
port=$(sed -n 's/.*:\([0-9]*\)$/\1/p' out.txt)
debug=$(sed -n 's/.*DevTools listening on ws:\/\/127.0.0.1:\([0-9]*\)\/.*/\1/p' browser.txt)
[ -n "$port" ] || fail "the server did not start"
[ -n "$debug" ] || fail "the browser did not start"

cat >drive.mjs <<'JS'
import assert from 'node:assert';
import fs from 'node:fs';
const [port, debug, shots] = process.argv.slice(2);
const pages = await (await fetch(`http://127.0.0.1:${debug}/json`)).json();
const socket = new WebSocket(pages.find((page) => page.type === 'page').webSocketDebuggerUrl);
await new Promise((resolve) => { socket.onopen = resolve; });
let number = 0;
const waiting = new Map();
socket.onmessage = (event) => {
  const message = JSON.parse(event.data);
  if (message.id) waiting.get(message.id)(message);
};
const command = (method, params = {}) => new Promise((resolve, reject) => {
  waiting.set(++number, (message) => (message.error ? reject(new Error(message.error.message)) : resolve(message.result)));
  socket.send(JSON.stringify({ id: number, method, params }));
});
const run = async (expression) => {
  const { result, exceptionDetails } = await command('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
  if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
  return result.value;
};
const until = async (expression) => {
  for (let i = 0; i < 600; i++) {
    if (await run(expression)) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`never: ${expression}`);
};
const key = (name, code, text) => command('Input.dispatchKeyEvent', { type: 'keyDown', key: name, code: name, windowsVirtualKeyCode: code, text })
  .then(() => command('Input.dispatchKeyEvent', { type: 'keyUp', key: name, code: name, windowsVirtualKeyCode: code }));
const shot = async (name) => {
  if (!shots) return;
  const { data } = await command('Page.captureScreenshot');
  fs.writeFileSync(`${shots}/${name}.png`, Buffer.from(data, 'base64'));
};
const open = async () => {
  await command('Page.navigate', { url: `http://127.0.0.1:${port}/` });
  await until(`location.port === "${port}" && document.readyState === 'complete' && document.getElementById('model').textContent === 'model'`);
};
const turns = '[...document.querySelectorAll(".turn.assistant")]';
await command('Page.enable');
await open();

// Keyboard alone: type, Enter. What streams in is text, never markup.
assert.equal(await run('document.activeElement.id'), 'input');
await run(`document.getElementById('temperature').value = '0'; document.getElementById('max_tokens').value = '30'`);
await command('Input.insertText', { text: '<b>hello</b>' });
await key('Enter', 13, '\r');
await until(`${turns}.length === 1 && running === null`);
assert.equal(await run(`document.querySelector('.turn.user .text').textContent`), '<b>hello</b>');
assert.equal(await run(`document.querySelectorAll('#talk b').length`), 0);
assert.match(await run(`document.querySelector('.figures').textContent`), /tokens · [0-9.]+ tokens\/s · first after/);
assert.equal(await run('document.activeElement.id'), 'input');
const expected = await (await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, { method: 'POST',
  body: JSON.stringify({ messages: [{ role: 'user', content: '<b>hello</b>' }], temperature: 0, max_tokens: 30 }) })).json();
assert.equal(await run(`messages[1].content`), expected.choices[0].message.content);
await shot('light');

// Shift+Enter breaks the line.
await command('Input.insertText', { text: 'a' });
await run(`(() => { const e = new KeyboardEvent('keydown', { key: 'Enter', shiftKey: true, cancelable: true, bubbles: true });
  document.body.dataset.broken = document.getElementById('input').dispatchEvent(e); })()`);
assert.equal(await run('document.body.dataset.broken'), 'true');

// Both themes, kept over a reload.
const theme = () => run('document.documentElement.dataset.theme');
const first = await theme();
await run(`document.getElementById('theme').click()`);
assert.notEqual(await theme(), first);
await shot(await theme());
await open();
assert.notEqual(await theme(), first);

// Stop: the page slows the stream down, so that there is time to stop it.
await run(`(() => { const real = window.fetch; window.fetch = async (...a) => { const reply = await real(...a);
  if (!String(a[0]).includes('completions')) return reply;
  const body = reply.body.pipeThrough(new TransformStream({ async transform(chunk, to) {
    await new Promise((resolve, reject) => { a[1].signal.onabort = () => reject(a[1].signal.reason); setTimeout(resolve, 400); });
    to.enqueue(chunk); } }));
  return new Response(body, { status: reply.status, headers: reply.headers }); }; })()`);
await run(`document.getElementById('max_tokens').value = '60'`);
await command('Input.insertText', { text: 'stop me' });
await key('Enter', 13, '\r');
await until(`!document.getElementById('stop').hidden`);
await key('Escape', 27);
await until('running === null');
assert.equal(await run(`document.getElementById('send').hidden`), false);

// An error of the server is shown, and what it was about is taken back.
await run(`document.getElementById('fresh').click()`);
assert.equal(await run(`document.getElementById('talk').children.length`), 0);
await run(`document.getElementById('input').value = 'x'.repeat(400); send()`);
await until(`running === null && document.querySelector('.wrong')`);
assert.match(await run(`document.querySelector('.wrong').textContent`), /context/);
assert.equal(await run('messages.length'), 0);

// A phone: nothing is wider than the screen, what is touched is large enough.
await command('Emulation.setDeviceMetricsOverride', { width: 360, height: 640, deviceScaleFactor: 2, mobile: true });
await open();
await command('Input.insertText', { text: 'hi' });
await key('Enter', 13, '\r');
await until(`${turns}.length === 1 && running === null`);
await run(`document.querySelector('details').open = true`);
assert.ok(await run('document.documentElement.scrollWidth') <= 360);
assert.ok(await run(`document.getElementById('send').getBoundingClientRect().bottom`) <= 640);
assert.ok(await run(`document.getElementById('send').getBoundingClientRect().height`) >= 32);
await shot('phone');
assert.equal(await run(`performance.getEntriesByType('resource').filter((r) => !r.name.startsWith(location.origin)).length`), 0);
console.log('chat page: passed');
process.exit(0);
JS
timeout 240 node "${flags[@]}" drive.mjs "$port" "$debug" "${FM_SCREENSHOTS:-}" || fail "the page has a fault"
