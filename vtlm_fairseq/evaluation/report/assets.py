"""Style and script of the report. Nothing in them comes from the data."""

STYLE = """
:root {
  color-scheme: light dark;
  --bg: #ffffff; --card: #f6f6f9; --fg: #1a1a1f; --muted: #565662; --line: #d0d0da;
  --glow: #ffbd4a; --focus: #0b57d0; --badge: #e4e4ee; --beam: #ff9d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #15161a; --card: #1e1f25; --fg: #ededf2; --muted: #adaebb; --line: #3b3c47;
    --glow: #8a5700; --focus: #8ab4f8; --badge: #32333d; --beam: #ffb638;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--bg); color: var(--fg);
  font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0 0 .75rem; }
h3, caption { font-size: .875rem; font-weight: 600; margin: 1rem 0 .35rem; text-align: left; }
p { margin: .25rem 0; }
.facts, h2 span, .name, .hint { color: var(--muted); font-weight: 400; }
.facts span + span::before { content: " \\00b7  "; }
.controls { margin: .75rem 0 1rem; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; align-items: center; }
select {
  font: inherit; color: var(--fg); background: var(--card); border: 1px solid var(--muted); border-radius: 6px;
  padding: .15rem .4rem;
}
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
article {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem;
  margin: 0 0 1.25rem;
}
.columns { display: grid; grid-template-columns: minmax(14rem, 24rem) minmax(0, 1fr); gap: 1.5rem; }
.columns.text-only { grid-template-columns: minmax(0, 1fr); }
@media (max-width: 50rem) { .columns { grid-template-columns: minmax(0, 1fr); } body { padding: .75rem; } }
figure { margin: 0; }
figcaption { color: var(--muted); font-size: .8125rem; margin-top: .35rem; }
svg { display: block; width: 100%; height: auto; background: var(--bg); border: 1px solid var(--line);
  border-radius: 6px; }
svg rect { fill: var(--beam); fill-opacity: calc(var(--a, 0) * .4); stroke: var(--muted); stroke-width: 1; }
svg.picture rect { stroke: #ffffff; }
svg .masked rect { stroke-dasharray: 6 4; }
svg .lit rect { stroke: color-mix(in srgb, var(--beam) calc(var(--a, 0) * 100%), var(--muted));
  stroke-width: calc(1px + var(--a, 0) * 3px); }
svg.picture .lit rect { stroke: color-mix(in srgb, var(--beam) calc(var(--a, 0) * 100%), #ffffff); }
svg text { font-size: 14px; font-weight: 600; fill: var(--fg); stroke: var(--bg); stroke-width: 3px;
  paint-order: stroke; }
.line { display: grid; grid-template-columns: 9rem minmax(0, 1fr); align-items: start; margin: .3rem 0; }
@media (max-width: 30rem) { .line { grid-template-columns: minmax(0, 1fr); } }
.words { display: flex; flex-wrap: wrap; gap: .15rem .1rem; }
.word {
  font: inherit; color: inherit; border: 1px solid transparent; border-radius: 4px; padding: 0 .22rem;
  background: color-mix(in srgb, var(--glow) calc(var(--a, 0) * 100%), transparent);
}
button.word { cursor: pointer; text-decoration: underline dotted var(--muted); text-underline-offset: .25em; }
.word.predicted { border: 1px dashed var(--fg); }
button.word[aria-pressed="true"] { box-shadow: inset 0 0 0 2px var(--focus); }
.summary { min-height: 3.1rem; margin: .6rem 0; padding: .35rem .6rem; border-left: 4px solid var(--line);
  font-size: .9375rem; }
.summary:empty { border-color: transparent; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem; margin: 0; padding: 0; }
.chip {
  border: 1px solid var(--line); border-radius: 6px; padding: .05rem .5rem; font-size: .875rem;
  background: color-mix(in srgb, var(--glow) calc(var(--a, 0) * 100%), transparent);
}
.badge { background: var(--badge); color: var(--fg); border-radius: 4px; padding: 0 .3rem; font-size: .8125rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-top: 1px solid var(--line); }
td ol { margin: 0; padding-left: 1.2rem; }
.right { font-weight: 700; }
@media print { .controls, .hint, .summary { display: none; } article { break-inside: avoid; } }
"""

SCRIPT = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("attention").textContent);
  const layer = document.getElementById("layer");
  const percent = (value) => (value / 10).toFixed(value < 100 ? 1 : 0) + "\\u00a0%";
  let current = null;

  const clear = (article) => {
    for (const element of article.querySelectorAll("[data-key]")) {
      element.classList.remove("lit");
      element.style.removeProperty("--a");
      delete element.dataset.weight;
    }
    for (const word of article.querySelectorAll("button.word")) word.setAttribute("aria-pressed", "false");
  };

  const show = (word) => {
    if (current && current.closest("article") !== word.closest("article")) reset();
    current = word;
    const article = word.closest("article");
    const row = data[article.dataset.sentence][layer.value][word.dataset.query];
    const most = Math.max(...row, 1);
    clear(article);
    word.setAttribute("aria-pressed", "true");
    for (const element of article.querySelectorAll("[data-key]")) {
      const weight = row[element.dataset.key];
      element.dataset.weight = weight;
      element.style.setProperty("--a", Math.sqrt(weight / most).toFixed(3));
      element.classList.toggle("lit", weight > 0);
    }
    summarise(article, word, row);
  };

  const summarise = (article, word, row) => {
    const best = (selector) => {
      const found = [...article.querySelectorAll(selector)].map((e) => [row[e.dataset.key], e.dataset.name]);
      const total = found.reduce((sum, [weight]) => sum + weight, 0);
      const three = found.filter(([weight]) => weight > 0).sort((a, b) => b[0] - a[0]).slice(0, 3);
      return [total, three.map(([weight, name]) => name + " " + percent(weight)).join(", ")];
    };
    const parts = [["words", best(".word[data-key]")], ["regions", best(".chip[data-key]")]];
    article.querySelector(".summary").textContent = word.textContent + " attends to " + parts
      .filter(([, [total]]) => total > 0)
      .map(([name, [total, three]]) => name + " " + percent(total) + " (" + three + ")").join(" and ");
  };

  const reset = () => {
    if (!current) return;
    const article = current.closest("article");
    clear(article);
    article.querySelector(".summary").textContent = "";
    current = null;
  };

  const step = (word, key) => {
    const words = [...word.closest("article").querySelectorAll("button.word")];
    const place = words.indexOf(word);
    const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: words.length - 1 }[key];
    return next === undefined ? null : words[Math.min(Math.max(next, 0), words.length - 1)];
  };

  for (const word of document.querySelectorAll("button.word")) {
    for (const event of ["pointerenter", "focus", "click"]) word.addEventListener(event, () => show(word));
    word.addEventListener("keydown", (event) => {
      if (event.key === "Escape") reset();
      const next = step(word, event.key);
      if (!next) return;
      event.preventDefault();
      for (const other of word.closest("article").querySelectorAll("button.word")) other.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  layer.addEventListener("change", () => { if (current) show(current); });
})();
"""
