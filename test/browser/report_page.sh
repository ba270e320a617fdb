#!/usr/bin/env bash
# The page that a run ends with, in headless Chromium: its drawings, its timeline, what the pointer finds, light and dark, a phone's
# width; text stays text, and nothing is loaded from anywhere. Skipped where there is no Chromium.
set -euo pipefail
fathom=$1
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ]; then
    echo "SKIP browser.report_page: no Chromium is installed"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
fail() { echo "report_page: $*" >&2; exit 1; }
open_page() {
    timeout 100 "$browser" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
        --disable-component-update --disable-sync --allow-file-access-from-files --user-data-dir="$scratch/profile" \
        --virtual-time-budget=10000 --window-size=1200,900 --dump-dom "file://$1" 2>"$scratch/log" ||
        { tail "$scratch/log" >&2; fail "Chromium failed"; }
    rm -rf "$scratch/profile"
}

for i in $(seq 300); do printf 'Document %s.\n%s\n\n' "$i" "$(seq -s ' ' "$i" 3 $((i + 360)))"; done >text
cat >r.yaml <<'Y'
name: page
stages:
  - {stage: machine, with: {probe: 1}}
  - {stage: corpus, with: {corpus: text}}
  - {stage: data, with: {vocab: 300, engine: process}}
  - {stage: train, with: {steps: 6, hidden: 32, layers: 4, pipe-ranks: 2, length: 32, batch: 4, expert-intermediate: 16, save-every: 3}}
  - {stage: balance}
  - {stage: schedule}
  - {stage: generate, with: {max-tokens: 4, prompt: "<b id=bad>Document</b>"}}
  - {stage: report, with: {title: "A <run> & its \"page\""}}
Y
"$fathom" run r.yaml >table.txt 2>err.txt || fail "$(cat err.txt)"
for row in 'training speed' 'loss, held out' 'unigram entropy' 'smoothed bigram' 'storage: bytes moved while computing' \
    'bubble, simulated' 'bubble, measured' 'imbalance before' 'imbalance after' 'storage: checkpoints' 'decoding speed' 'cache hits' '<b id=bad>Document</b>'; do
    grep -q -- "$row" table.txt || fail "the table lacks '$row': $(cat table.txt)"
done
! grep -q 'ISA level' table.txt || fail "the table has the rows of all stages"

cp run/report.html report.html
cat >>report.html <<'H'
<script>
addEventListener("load", () => setTimeout(() => {
  const said = document.body.dataset, root = document.documentElement;
  const inside = (id) => document.getElementById(id)?.shadowRoot;
  said.drawings = ["loss", "pipeline", "experts"].filter((id) => inside(id)?.querySelector("svg")?.getBoundingClientRect().width > 200).join();
  said.heat = inside("experts").querySelectorAll("rect").length;
  const svg = inside("loss").querySelector("svg"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width * Number(svg.dataset.right) / svg.viewBox.baseVal.width, clientY: box.top + 9, bubbles: true, composed: true }));
  said.loss = document.getElementById("lossat").textContent;
  const inner = document.querySelector("iframe").contentDocument;
  said.slices = Number(inner.body.dataset.slices) > 10;
  said.fits = inner.documentElement.scrollHeight <= document.querySelector("iframe").clientHeight + 2;
  const colours = () => [document.body, inner.body].map((body) => getComputedStyle(body).backgroundColor).join();
  const first = colours(), theme = root.dataset.theme;
  document.getElementById("theme").click();
  const second = colours(), rows = first.split("rgb"), others = second.split("rgb");
  said.themes = [theme, root.dataset.theme, inner.documentElement.dataset.theme].join();
  said.changed = rows.every((colour, i) => i === 0 || colour !== others[i]);
  const ground = getComputedStyle(inside("pipeline").querySelector(".bg")).fill;
  document.getElementById("theme").click();
  said.drawing = ground !== getComputedStyle(inside("pipeline").querySelector(".bg")).fill;
  said.markup = document.querySelectorAll("#bad, run").length;
  said.title = document.title;
  said.outside = performance.getEntriesByType("resource").length;
}, 100));
</script>
H
open_page "$PWD/report.html" >dom.txt
expect() { grep -q -- "$1" dom.txt || fail "the page lacks $1: $(grep -o '<body[^>]*>' dom.txt)"; }
expect 'data-drawings="loss,pipeline,experts"'
expect 'data-heat="24"'
expect 'data-loss="step 6: [0-9.]* nats per token"'
expect 'data-slices="true"'
expect 'data-fits="true"'
expect 'data-themes="light,dark,dark"'
expect 'data-changed="true"'
expect 'data-drawing="true"'
expect 'data-markup="0"'
expect 'data-outside="0"'
expect "data-title=\"A &lt;run&gt; &amp; its"

# A phone: the page is no wider than the screen, though its drawings may scroll within it.
cat >phone.html <<'H'
<body><iframe id="phone" src="run/report.html" width="360" height="700" style="border:0"></iframe>
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.getElementById("phone").contentDocument;
  document.body.dataset.fits = page.documentElement.scrollWidth <= page.documentElement.clientWidth;
  document.body.dataset.button = page.getElementById("theme").getBoundingClientRect().height >= 32;
}, 100));
</script>
H
open_page "$PWD/phone.html" >dom.txt
expect 'data-fits="true"'
expect 'data-button="true"'
