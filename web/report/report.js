// The page of a run: one theme for all of it, and what the loss curve says under the pointer.
"use strict";

const root = document.documentElement;
const frame = document.querySelector("iframe");

// Drawings keep their styles to themselves: each lies in a shadow tree, which older browsers leave as a template.
for (const template of document.querySelectorAll("template[shadowrootmode]")) {
  template.parentNode.attachShadow({ mode: "open" }).append(template.content);
  template.remove();
}
const drawings = [...document.querySelectorAll(".drawing")].map((drawing) => drawing.shadowRoot).filter(Boolean);

// Drawings that know a dark form ask the system; what the page was told counts more.
const darkRules = drawings.flatMap((drawing) => [...drawing.styleSheets])
  .flatMap((sheet) => [...sheet.cssRules])
  .filter((rule) => rule instanceof CSSMediaRule && rule.media.mediaText.includes("prefers-color-scheme"));

function setTheme(theme) {
  root.dataset.theme = theme;
  for (const rule of darkRules) rule.media.mediaText = theme === "dark" ? "all" : "not all";
  if (frame?.contentDocument?.documentElement) frame.contentDocument.documentElement.dataset.theme = theme;
}

// Of the page of a trace, what a run's page has no other place for.
function fitFrame() {
  const inner = frame.contentDocument, style = inner.createElement("style");
  style.textContent = "header, #overlap, #findings, #phases, #kernels, #timeline > h2 { display: none }";
  inner.head.append(style);
  setTheme(root.dataset.theme);
  requestAnimationFrame(() => {
    frame.style.height = `${inner.querySelector("main").getBoundingClientRect().bottom + 4}px`;
  });
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
frame?.addEventListener("load", fitFrame);
if (frame?.contentDocument?.getElementById("timeline") && frame.contentDocument.readyState === "complete") fitFrame();

const curve = document.getElementById("losses");
if (curve) {
  const losses = JSON.parse(curve.textContent);
  const figure = document.getElementById("loss").shadowRoot, said = document.getElementById("lossat");
  const svg = figure.querySelector("svg"), left = Number(svg.dataset.left), right = Number(svg.dataset.right);
  figure.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const step = Math.round((at - left) / (right - left) * (losses.length - 1));
    if (step >= 0 && step < losses.length) said.textContent = `step ${step + 1}: ${losses[step].toFixed(3)} nats per token`;
  });
}
