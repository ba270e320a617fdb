// The page of one trace: timeline on a canvas, overlap bars, findings, tables. No library, no network.
//
// Slices come as rows: a row is one nesting level of one track, so its slices are in order and never overlap. Drawing a row
// steps from pixel to pixel by binary search: its cost depends on the width of the canvas, not on the number of slices.
"use strict";

const report = JSON.parse(document.getElementById("report").textContent);
const meta = JSON.parse(document.getElementById("meta").textContent);
const byId = (id) => document.getElementById(id);

// ---- data ---------------------------------------------------------------------------------------------------------------

function decodeRows() {
  const text = atob(byId("slices").textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  let at = 0;
  // LEB128; values beyond 32 bits need more than bit operations.
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    return value;
  };
  return meta.rows.map((row) => {
    const n = row.count;
    const begin = new Float64Array(n), end = new Float64Array(n);
    const name = new Uint32Array(n), group = new Uint16Array(n), phase = new Uint32Array(n);
    let time = 0;
    for (let i = 0; i < n; i++) {
      time += varint();
      begin[i] = time / 1000; // microseconds from here on
      end[i] = (time + varint()) / 1000;
      name[i] = varint();
      group[i] = varint(); // 0: none, else index + 1
      phase[i] = varint();
    }
    return { ...row, begin, end, name, group, phase };
  });
}

const rows = decodeRows();
const whole = [0, Math.max(1, meta.end_us)];

// The first slice of a row that ends behind `time`.
function firstAfter(row, time) {
  let low = 0, high = row.end.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row.end[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}

// ---- colours --------------------------------------------------------------------------------------------------------------

const dark = () => document.documentElement.dataset.theme === "dark";
const hues = new Map();
function hueOf(text) {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  return (hash >>> 0) % 360;
}
const fixed = { transfer: 14, wait: 40 }; // communication is red and amber in every colouring by group
const directions = { F: 215, B: 150, W: 285 };
function paint(hue, saturation = 55, lighter = 0) {
  return `hsl(${hue} ${saturation}% ${(dark() ? 52 : 62) + lighter}%)`;
}
// Groups of computation, the longest first, share what communication leaves of the circle: steps of the golden angle keep
// any few of them apart, and lightness tells neighbours from each other.
const ranks = new Map(meta.groups.map((group) => group.name)
  .filter((name) => report.groups[name]?.kind === "compute")
  .sort((a, b) => report.groups[b].sum_dur_us - report.groups[a].sum_dur_us)
  .map((name, rank) => [name, rank]));
function computeColour(name) {
  const rank = ranks.get(name) ?? 0;
  return paint(75 + (rank * 0.618034 % 1) * 245, 55, (rank % 3 - 1) * 9);
}
function colourOf(row, i) {
  // Annotations belong to no group: they bear the colour of their phase.
  const byGroup = view.colour === "group" && row.group[i] > 0;
  const key = byGroup ? row.group[i] : view.colour === "name" ? 1e6 + row.name[i] : -1 - row.phase[i];
  let colour = hues.get(key);
  if (colour !== undefined) return colour;
  if (byGroup) {
    const group = meta.groups[row.group[i] - 1];
    if (group.kind === "compute") colour = computeColour(group.name);
    else colour = paint(fixed[group.kind] + (hueOf(group.name) % 14), 75);
  } else if (view.colour === "name") {
    colour = paint(hueOf(meta.names[row.name[i]]));
  } else {
    const phase = meta.phases[row.phase[i] - 1];
    if (!phase) colour = paint(220, 10);
    else colour = paint((directions[phase.direction] ?? hueOf(phase.name)) + (hueOf(phase.name) % 40), 60);
  }
  hues.set(key, colour);
  return colour;
}

// ---- timeline ---------------------------------------------------------------------------------------------------------------

const canvas = byId("canvas"), context = canvas.getContext("2d"), tip = byId("tip");
const LABEL = 150, ROW = 17, AXIS = 24, GAP = 7;
const view = { from: whole[0], to: whole[1], top: 0, colour: "group", matches: null, selected: null, measure: null };
let layout = [], contentHeight = 0, width = 0, height = 0, pending = false;

// As much of a text as fits, with an ellipsis where some is left out.
function fitted(text, room) {
  let length = text.length;
  while (length > 1 && context.measureText(length < text.length ? text.slice(0, length) + "…" : text).width > room) length--;
  return length < text.length ? text.slice(0, length) + "…" : text;
}

function place() {
  let y = AXIS;
  layout = rows.map((row, i) => {
    if (i > 0 && rows[i - 1].track !== row.track) y += GAP;
    const entry = { row, y, first: i === 0 || rows[i - 1].track !== row.track };
    y += ROW;
    return entry;
  });
  contentHeight = y + GAP;
}

function resize() {
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${Math.min(Math.max(contentHeight, 160), Math.round(window.innerHeight * 0.7))}px`;
  width = canvas.clientWidth;
  height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  redraw();
}

const scaleOf = () => (width - LABEL) / (view.to - view.from); // pixels a microsecond
const timeAt = (x) => view.from + (x - LABEL) / scaleOf();

function formatTime(us) {
  const magnitude = Math.abs(us);
  if (magnitude >= 1e6) return `${(us / 1e6).toPrecision(4)} s`;
  if (magnitude >= 1e3) return `${(us / 1e3).toPrecision(4)} ms`;
  if (magnitude >= 1) return `${+us.toPrecision(4)} µs`;
  return `${Math.round(us * 1000)} ns`;
}

function drawAxis(style) {
  context.fillStyle = style.ground;
  context.fillRect(0, 0, width, AXIS);
  context.strokeStyle = style.line;
  context.fillStyle = style.dim;
  const rough = (view.to - view.from) / Math.max(2, (width - LABEL) / 120);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
  // Decimals that tell neighbouring ticks apart, in the unit of the largest of them.
  const unit = view.to >= 1e6 ? [1e6, "s"] : view.to >= 1e3 ? [1e3, "ms"] : [1, "µs"];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / unit[0])));
  for (let k = Math.ceil(view.from / step); k * step <= view.to; k++) {
    const x = LABEL + (k * step - view.from) * scaleOf();
    context.beginPath();
    context.moveTo(x + 0.5, AXIS - 6);
    context.lineTo(x + 0.5, height);
    context.stroke();
    context.fillText(`${((k * step) / unit[0]).toFixed(digits)} ${unit[1]}`, x + 4, 14);
  }
}

function drawRow(entry, style) {
  const { row } = entry;
  const y = entry.y - view.top, scale = scaleOf();
  if (y + ROW < AXIS || y > height) return;
  let i = firstAfter(row, view.from);
  const n = row.begin.length;
  while (i < n && row.begin[i] < view.to) {
    const x0 = Math.max(LABEL, LABEL + (row.begin[i] - view.from) * scale);
    const x1 = Math.min(width, LABEL + (row.end[i] - view.from) * scale);
    const w = Math.max(1, x1 - x0);
    const dim = view.matches && !view.matches.has(row.name[i]);
    context.globalAlpha = dim ? 0.18 : 1;
    context.fillStyle = colourOf(row, i);
    context.fillRect(x0, y + 1, w > 3 ? w - 0.5 : w, ROW - 2);
    if (w > 34) {
      context.fillStyle = style.label;
      const room = Math.floor((w - 8) / 6.4);
      const text = meta.short[row.name[i]];
      context.fillText(text.length > room ? `${text.slice(0, room - 1)}…` : text, x0 + 4, y + ROW - 5);
    }
    if (view.selected && view.selected.row === row && view.selected.i === i) {
      context.globalAlpha = 1;
      context.strokeStyle = style.ink;
      context.lineWidth = 2;
      context.strokeRect(x0, y + 1, w, ROW - 2);
      context.lineWidth = 1;
    }
    // Everything that ends within this pixel is drawn: on to the first that reaches beyond it.
    const beyond = timeAt(Math.floor(x0 + w) + (w < 2 ? 1 : 0));
    i = w < 2 ? Math.max(i + 1, firstAfter(row, beyond)) : i + 1;
  }
  context.globalAlpha = 1;
}

function drawLabels(style) {
  context.fillStyle = style.ground;
  context.fillRect(0, AXIS, LABEL, height);
  for (const entry of layout) {
    const y = entry.y - view.top;
    if (!entry.first || y + ROW < AXIS || y > height) continue;
    const track = meta.tracks[entry.row.track];
    context.fillStyle = track.communication ? style.exposed : style.ink;
    context.fillText(fitted(track.label, LABEL - 12), 6, y + ROW - 5);
  }
  context.strokeStyle = style.line;
  context.strokeRect(LABEL - 0.5, -1, 0.5, height + 2);
}

function drawMeasure(style) {
  if (!view.measure) return;
  const [a, b] = view.measure.map((t) => LABEL + (t - view.from) * scaleOf());
  context.fillStyle = style.accent;
  context.globalAlpha = 0.2;
  context.fillRect(Math.min(a, b), AXIS, Math.abs(b - a), height);
  context.globalAlpha = 1;
  context.fillText(formatTime(Math.abs(view.measure[1] - view.measure[0])), Math.min(a, b) + 4, AXIS + 12);
}

let styles = null;
function readStyles() {
  const computed = getComputedStyle(document.documentElement);
  styles = Object.fromEntries(
    ["ground", "ink", "dim", "line", "accent", "exposed"].map((k) => [k, computed.getPropertyValue(`--${k}`).trim()]));
  styles.label = "#10131a";
}

function draw() {
  pending = false;
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = styles.ground;
  context.fillRect(0, 0, width, height);
  drawAxis(styles);
  context.save();
  context.beginPath();
  context.rect(LABEL, AXIS, width - LABEL, height - AXIS);
  context.clip();
  for (const entry of layout) drawRow(entry, styles);
  drawMeasure(styles);
  context.restore();
  drawLabels(styles);
}

function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(draw);
}

function show(from, to) {
  const least = 0.05, most = (whole[1] - whole[0]) * 1.1; // 50 ns to a little more than the run
  const length = Math.min(Math.max(to - from, least), most);
  const middle = Math.min(Math.max((from + to) / 2, whole[0]), whole[1]);
  view.from = middle - length / 2;
  view.to = middle + length / 2;
  redraw();
}

function zoom(factor, x) {
  const at = timeAt(x);
  show(at - (at - view.from) * factor, at + (view.to - at) * factor);
}

function scrollTo(top) {
  view.top = Math.min(Math.max(0, top), Math.max(0, contentHeight - height));
  redraw();
}

function hit(x, y) {
  if (x < LABEL || y < AXIS) return null;
  for (const { row, y: top } of layout) {
    if (y < top - view.top || y >= top - view.top + ROW) continue;
    const slack = 2 / scaleOf(); // two pixels, for slices that are hardly one
    const i = firstAfter(row, timeAt(x) - slack);
    return i < row.begin.length && row.begin[i] <= timeAt(x) + slack ? { row, i } : null;
  }
  return null;
}

function describe({ row, i }) {
  const group = meta.groups[row.group[i] - 1], phase = meta.phases[row.phase[i] - 1];
  const lines = [meta.names[row.name[i]],
    `${formatTime(row.end[i] - row.begin[i])}, from ${row.begin[i].toFixed(3)} to ${row.end[i].toFixed(3)} µs`,
    meta.tracks[row.track].label];
  if (group) lines.push(`${group.name} (${group.kind})`);
  if (phase) lines.push(`phase ${phase.name}`);
  return lines.join("\n");
}

function select(found) {
  view.selected = found;
  byId("selected").hidden = !found;
  byId("selected").textContent = found ? describe(found) : "";
  redraw();
}

function listen() {
  let drag = null;
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("wheel", (event) => {
    const [x] = point(event);
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const step = (event.deltaX || event.deltaY) / scaleOf();
      show(view.from + step, view.to + step);
    } else if (event.altKey) scrollTo(view.top + event.deltaY);
    else zoom(1.0015 ** event.deltaY, Math.max(x, LABEL));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = point(event);
    drag = { x, y, from: view.from, to: view.to, top: view.top, moved: false, measure: event.shiftKey };
    if (event.shiftKey) view.measure = [timeAt(x), timeAt(x)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = point(event);
    if (drag) {
      drag.moved ||= Math.hypot(x - drag.x, y - drag.y) > 3;
      if (drag.measure) view.measure[1] = timeAt(x);
      else if (drag.moved) {
        const step = (drag.x - x) / ((width - LABEL) / (drag.to - drag.from));
        show(drag.from + step, drag.to + step);
        scrollTo(drag.top + drag.y - y);
      }
      redraw();
      tip.hidden = true;
      return;
    }
    const found = hit(x, y);
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = describe(found);
    tip.style.left = `${Math.min(x + 14, Math.max(0, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > height ? Math.max(0, y - tip.offsetHeight - 10) : y + 18}px`;
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) {
      view.measure = null;
      select(hit(...point(event)));
    }
    drag = null;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("dblclick", (event) => {
    const found = hit(...point(event));
    if (!found) return;
    const { row, i } = found, margin = (row.end[i] - row.begin[i]) * 0.2;
    show(row.begin[i] - margin, row.end[i] + margin);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = (view.to - view.from) * 0.15, key = event.key.toLowerCase();
    if (key === "w" || key === "+") zoom(0.75, (width + LABEL) / 2);
    else if (key === "s" || key === "-") zoom(1 / 0.75, (width + LABEL) / 2);
    else if (key === "a" || key === "arrowleft") show(view.from - step, view.to - step);
    else if (key === "d" || key === "arrowright") show(view.from + step, view.to + step);
    else if (key === "arrowup") scrollTo(view.top - 3 * ROW);
    else if (key === "arrowdown") scrollTo(view.top + 3 * ROW);
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", resize);
}

// ---- search -----------------------------------------------------------------------------------------------------------------

function search(text) {
  let pattern = null;
  if (text) {
    try {
      pattern = new RegExp(text, "i");
    } catch {
      pattern = new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i");
    }
  }
  view.matches = pattern && new Set(meta.names.flatMap((name, i) => (pattern.test(name) ? [i] : [])));
  let count = 0, time = 0;
  if (view.matches)
    for (const row of rows)
      for (let i = 0; i < row.name.length; i++)
        if (view.matches.has(row.name[i])) {
          count++;
          time += row.end[i] - row.begin[i];
        }
  byId("matches").textContent = pattern ? `${count} slices, ${formatTime(time)}` : "";
  redraw();
}

// The next match in time behind (or before) the selected slice, over all rows.
function step(forward) {
  if (!view.matches || view.matches.size === 0) return;
  const at = view.selected ? view.selected.row.begin[view.selected.i] : forward ? -Infinity : Infinity;
  let best = null;
  for (const row of rows) {
    let i = forward ? 0 : row.begin.length - 1;
    if (forward && at > -Infinity) i = Math.max(0, firstAfter(row, at) - 1);
    for (; i >= 0 && i < row.begin.length; i += forward ? 1 : -1) {
      if (!view.matches.has(row.name[i]) || (forward ? row.begin[i] <= at : row.begin[i] >= at)) continue;
      if (!best || (forward ? row.begin[i] < best.row.begin[best.i] : row.begin[i] > best.row.begin[best.i]))
        best = { row, i };
      break;
    }
  }
  if (!best) return;
  select(best);
  const length = view.to - view.from, middle = (best.row.begin[best.i] + best.row.end[best.i]) / 2;
  show(middle - length / 2, middle + length / 2);
}

// ---- what stands around the timeline ----------------------------------------------------------------------------------------

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fillBars() {
  for (const [title, key] of [["by name", "by_name"], ["without waits", "transfer_only"], ["by stream", "by_stream"]]) {
    const o = report.overlap[key], span = o.span_us || 1;
    const bar = element("div", undefined, "bar"), track = element("div", undefined, "track");
    const parts = [["compute alone", o.compute_busy_us - o.overlap_us, "--compute"], ["overlapped", o.overlap_us, "--both"],
      ["exposed communication", o.exposed_comm_us, "--exposed"], ["idle", o.idle_us, "--idle"]];
    const figures = element("div", undefined, "figures");
    for (const [name, us, colour] of parts) {
      const part = element("span");
      part.style.width = `${(100 * us) / span}%`;
      part.style.background = `var(${colour})`;
      part.title = `${name}: ${us} µs, ${((100 * us) / span).toFixed(2)} %`;
      track.append(part);
      const swatch = element("i", undefined, "swatch");
      swatch.style.background = `var(${colour})`;
      const figure = element("span");
      figure.append(swatch, `${name} ${Math.round(us)} µs (${((100 * us) / span).toFixed(2)} %)`);
      figures.append(figure);
    }
    bar.append(element("strong", title), track, figures);
    byId("bars").append(bar);
  }
}

// The report is ASCII; the page need not be.
const micro = (text) => text.replace(/(\d) us\b/g, "$1 µs");

function fillFindings() {
  for (const finding of report.findings) {
    const item = element("li", `${micro(finding.text)} `);
    if (finding.saving_us > 0) item.append(element("span", `up to ${Math.round(finding.saving_us)} µs`, "saving"));
    if (finding.dur_us) {
      const link = element("a", " show");
      link.href = "#timeline";
      const at = finding.at_us + meta.offset_us;
      link.addEventListener("click", () => show(at - finding.dur_us, at + 2 * finding.dur_us));
      item.append(link);
    }
    item.append(element("div", micro(finding.evidence), "evidence"));
    byId("findinglist").append(item);
  }
  if (report.findings.length === 0) byId("findinglist").replaceWith(element("p", "Nothing stands out."));
}

// A table that sorts by the column whose title is clicked.
function fillTable(table, columns, data) {
  let sorted = null, ascending = false;
  const fill = () => {
    const head = element("tr"), body = element("tbody");
    columns.forEach((column, c) => {
      const cell = element("th", column.title + (sorted === c ? (ascending ? " ▲" : " ▼") : ""), column.text ? "text" : "");
      cell.addEventListener("click", () => {
        ascending = sorted === c ? !ascending : Boolean(column.text);
        sorted = c;
        data.sort((a, b) => {
          const x = column.value(a), y = column.value(b);
          return (x < y ? -1 : x > y ? 1 : 0) * (ascending ? 1 : -1);
        });
        fill();
      });
      head.append(cell);
    });
    for (const item of data.slice(0, 2000)) {
      const line = element("tr");
      for (const column of columns) {
        const value = column.value(item);
        const cell = element("td", typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : value,
          column.text ? "text" : "");
        if (column.text) cell.title = value;
        line.append(cell);
      }
      body.append(line);
    }
    const top = element("thead");
    top.append(head);
    table.replaceChildren(top, body);
  };
  fill();
}

function fillTables() {
  fillTable(byId("phasetable"), [
    { title: "phase", value: (p) => p.name, text: true }, { title: "times", value: (p) => p.count },
    { title: "work", value: (p) => p.kernels }, { title: "host µs", value: (p) => p.cpu_dur_us },
    { title: "compute µs", value: (p) => p.compute_us }, { title: "communication µs", value: (p) => p.comm_us },
    { title: "hidden µs", value: (p) => p.comm_overlapped_us }, { title: "exposed µs", value: (p) => p.comm_exposed_us },
  ], report.phases);
  byId("phases").hidden = report.phases.length === 0;
  fillTable(byId("kerneltable"), [
    { title: "kernel", value: (k) => k.name, text: true }, { title: "group", value: (k) => k.group, text: true },
    { title: "count", value: (k) => k.count }, { title: "sum µs", value: (k) => k.total_us },
    { title: "mean µs", value: (k) => k.avg_us }, { title: "least µs", value: (k) => k.min_us },
    { title: "most µs", value: (k) => k.max_us },
  ], report.kernels);
}

function fillLegend() {
  const entries = view.colour === "group" ? meta.groups.map((g, i) => [g.name, { group: [i + 1], phase: [0], name: [0] }, g.used])
    : view.colour === "phase" ? meta.phases.map((p, i) => [p.name, { group: [0], phase: [i + 1], name: [0] }, true]) : [];
  byId("legend").replaceChildren(...entries.filter((e) => e[2]).map(([name, row]) => {
    const item = element("span"), swatch = element("i");
    swatch.style.background = colourOf(row, 0);
    item.append(swatch, name);
    return item;
  }));
}

function recolour() {
  hues.clear();
  readStyles();
  fillLegend();
  redraw();
}

function start() {
  byId("files").textContent = report.files.map((f) => `${f.path}: ${f.events} events${f.device ? `, ${f.device}` : ""}`).join(" · ");
  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    recolour();
  });
  byId("colour").addEventListener("change", (event) => {
    view.colour = event.target.value;
    recolour();
  });
  byId("search").addEventListener("input", (event) => search(event.target.value));
  byId("search").addEventListener("keydown", (event) => { if (event.key === "Enter") step(!event.shiftKey); });
  byId("next").addEventListener("click", () => step(true));
  byId("previous").addEventListener("click", () => step(false));
  byId("fit").addEventListener("click", () => show(...whole));
  fillBars();
  fillFindings();
  fillTables();
  place();
  recolour();
  resize();
  listen();
  document.body.dataset.slices = rows.reduce((sum, row) => sum + row.count, 0);
}

start();
// What tests reach the page by.
window.fathom = { view, rows, meta, report, show, search, step, hit, select, draw, layout: () => layout, describe };
