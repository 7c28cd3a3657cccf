"use strict";

/* An element with attributes and children; a string is text, never markup. */
const make = (tag, attributes = {}, ...children) => {
  const svg = ["svg", "g", "rect", "text", "image"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

const percent = (share) => (share * 100).toFixed(share < 0.0995 ? 1 : 0) + "\u00a0%";
const total = (values) => values.reduce((sum, value) => sum + value, 0);
const byWeight = (weights) => [...weights.keys()].sort((a, b) => weights[b] - weights[a] || a - b);

/* The article of a sentence: its words, regions, what a word attends to, and which words attend to a region. */
class SentenceView {
  constructor(sentence, data, settings) {
    Object.assign(this, { sentence, data, settings, chosen: null });
    this.words = [];
    this.article = make("article", { id: "line-" + sentence.number, "aria-labelledby": "title-" + sentence.number },
      this.heading());
    this.summary = make("p", { class: "summary", role: "status" });
    const text = make("div", {}, make("div", { class: "lines", "data-group": "words" },
      ...sentence.lines.map((line) => this.line(line))), this.summary);
    const columns = make("div", { class: "columns" }, text);
    if (sentence.regions.length) {
      this.drawn = sentence.regions.map((region, k) => this.box(region, k));
      this.rows = sentence.regions.map((region, k) => this.row(region, k));
      this.list = make("ol", { class: "regions", "data-group": "regions" });
      this.caption = make("h3", {});
      text.append(this.caption, this.list);
    } else {
      this.drawn = this.rows = [];
    }
    if (sentence.image !== null) columns.prepend(this.figure());
    else columns.classList.add("text-only");
    this.article.append(columns);
    if (sentence.predictions.length) this.article.append(this.predictions());
    for (const group of this.article.querySelectorAll("[data-group]")) this.reach(group);
    this.listen();
    this.update();
  }

  /* Attention of a word (its row) in the chosen layer: on K words, then on R regions. */
  weights(query) {
    const { start, queries, keys, regions } = this.sentence;
    const width = keys + regions.length;
    const first = start + (this.settings.plane * queries + query) * width;
    return Array.from(this.data.attention.subarray(first, first + width), (byte) => (byte / 255) ** 2);
  }

  heading() {
    const { number, image, note } = this.sentence;
    return make("h2", { id: "title-" + number }, "Line " + number,
      image === null ? null : make("span", {}, " image " + image), note ? make("span", { class: "note" }, note) : null);
  }

  line(line) {
    const words = make("span", { class: "words", lang: line.lang });
    for (const [text, query, key, predicted, changed] of line.words) {
      const kind = "word" + (predicted ? " predicted" : "") + (changed ? " changed" : "");
      const shown = changed ? make("mark", {}, text) : text;
      const word = query < 0 ? make("span", { class: kind }, shown)
        : make("button", { type: "button", class: kind, "data-query": query, "aria-pressed": "false" }, shown);
      if (predicted) word.setAttribute("aria-description", "predicted");
      if (changed) word.setAttribute("aria-description", "differs with another image or none");
      if (key >= 0) word.dataset.key = key;
      this.words.push({ word, text, query, key });
      words.append(word, " ");
    }
    return make("div", { class: "line", role: "group", "aria-label": line.name + " (" + line.lang + ")" },
      make("span", { class: "name" }, line.name, " ", make("small", {}, line.note || line.lang)), words);
  }

  label(k) {
    return (k + 1) + " " + this.data.labels[this.sentence.regions[k].label];
  }

  box(region, k) {
    const [x, y, right, bottom] = region.box;
    const size = { x, y, width: right - x, height: bottom - y, rx: 2 };
    return make("g", { class: region.masked ? "region masked" : "region", "data-region": k },
      make("rect", { class: "halo", ...size }), make("rect", size));
  }

  height() {
    const picture = this.data.pictures[this.sentence.picture];
    return picture ? picture.height : this.data.height;
  }

  figure() {
    const picture = this.data.pictures[this.sentence.picture];
    const size = { width: this.data.width, height: this.height() };
    this.svg = make("svg", { viewBox: "0 0 " + size.width + " " + size.height, role: "img",
      class: picture ? "picture" : "sketch" });
    if (picture) this.svg.append(make("image", { href: picture.uri, ...size, preserveAspectRatio: "none" }));
    this.boxes = make("g");
    this.names = make("g"); // above all boxes
    this.svg.append(this.boxes, this.names);
    const said = !this.drawn.length ? "No regions." : picture ? "" : "Sketch of the regions; no picture given.";
    return make("figure", {}, this.svg, said ? make("figcaption", {}, said) : null);
  }

  row(region, k) {
    const badges = [];
    if (region.masked) badges.push("masked");
    if (region.predictions.length) {
      badges.push("predicted: " + region.predictions.map(([name, p]) => name + " " + percent(p)).join(", "));
    }
    const share = make("span", { class: "share" });
    return make("li", {}, make("button", { type: "button", "data-region": k, "aria-pressed": "false" },
      make("span", { class: "label" }, this.label(k), " ",
        make("small", {}, region.score.toFixed(2)), ...badges.map((text) => make("span", { class: "badge" }, text))),
      share));
  }

  predictions() {
    const { predictions } = this.sentence;
    const both = predictions.some((word) => word.without !== null);
    const ranking = (found, truth) => make("td", {}, make("ol", {}, ...(found || []).map(([name, p]) =>
      make("li", { class: name === truth ? "right" : null }, name + " " + percent(p)))));
    const heads = ["Line", "Word", "Seen as", ...(both ? ["With the image", "Without it"] : ["Predicted"])];
    return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Predicted words" },
      make("table", {}, make("caption", {}, "Predicted words"),
        make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
        make("tbody", {}, ...predictions.map((word) => make("tr", {}, make("td", {}, word.line),
          make("td", {}, word.truth), make("td", {}, word.seen), ranking(word.with, word.truth),
          both ? ranking(word.without, word.truth) : null)))));
  }

  /* One button of a group takes the tab key; arrow keys go to the others. */
  reach(group) {
    const buttons = [...group.querySelectorAll("button")];
    const reachable = buttons.find((button) => button.tabIndex === 0 && button.dataset.reached) || buttons[0];
    for (const button of buttons) button.tabIndex = button === reachable ? 0 : -1;
  }

  listen() {
    for (const event of ["pointerover", "focusin", "click"]) {
      this.article.addEventListener(event, ({ target }) => {
        const found = target.closest("[data-query], [data-region]");
        if (!found) return;
        const { query, region } = found.dataset;
        this.choose(query !== undefined ? { query: Number(query) } : { region: Number(region) });
      });
    }
    this.article.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.choose(null);
      const group = event.target.closest("[data-group]");
      if (!group) return;
      const buttons = [...group.querySelectorAll("button")];
      const place = buttons.indexOf(event.target);
      const next = { ArrowLeft: place - 1, ArrowUp: place - 1, ArrowRight: place + 1, ArrowDown: place + 1, Home: 0,
        End: buttons.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      for (const button of buttons) button.tabIndex = -1;
      const button = buttons[Math.min(Math.max(next, 0), buttons.length - 1)];
      button.tabIndex = 0;
      button.dataset.reached = true;
      button.focus();
    });
  }

  choose(chosen) {
    if (JSON.stringify(chosen) === JSON.stringify(this.chosen)) return;
    if (chosen) this.settings.choose(this);
    this.chosen = chosen;
    this.update();
  }

  /* Show what is chosen: a word, a region, or nothing, which is what all words together attend to. */
  update() {
    const { queries, keys, regions } = this.sentence;
    const region = this.chosen?.region, query = this.chosen?.query;
    if (region === undefined) {
      const rows = query === undefined ? [...Array(queries).keys()] : [query];
      const row = rows.map((q) => this.weights(q));
      this.onRegions = regions.map((_, k) => total(row.map((weights) => weights[keys + k])) / Math.max(rows.length, 1));
    }
    const onWords = query === undefined ? [] : this.weights(query).slice(0, keys);
    const column = region === undefined ? [] : [...Array(queries).keys()].map((q) => this.weights(q)[keys + region]);
    this.light(onWords, column, query);
    if (regions.length) this.showRegions(region);
    this.summary.textContent = query !== undefined ? this.ofWord(query, onWords)
      : region !== undefined ? this.ofRegion(region, column) : "";
  }

  light(onWords, column, query) {
    const most = Math.max(...onWords, ...column, 1e-9);
    for (const { word, query: own, key } of this.words) {
      const weight = onWords.length && key >= 0 ? onWords[key] : column.length && own >= 0 ? column[own] : 0;
      word.style.setProperty("--a", Math.sqrt(weight / most).toFixed(3));
      word.classList.toggle("lit", weight > 0);
      if (own >= 0) word.setAttribute("aria-pressed", String(own === query));
    }
  }

  /* The boxes and rows of the regions with the greatest weight, which are shown as shares of all regions. */
  showRegions(region) {
    const order = byWeight(this.onRegions).slice(0, this.settings.boxes);
    if (region !== undefined && !order.includes(region)) order.push(region);
    const most = Math.max(...this.onRegions, 1e-9), sum = Math.max(total(this.onRegions), 1e-9);
    for (const k of order) {
      const row = this.rows[k].firstChild, box = this.drawn[k];
      const strength = (this.onRegions[k] / most).toFixed(3);
      for (const element of [row, box]) {
        element.style.setProperty("--a", strength);
        element.dataset.share = (this.onRegions[k] / sum).toFixed(4);
      }
      row.lastChild.textContent = percent(this.onRegions[k] / sum);
      row.setAttribute("aria-pressed", String(k === region));
      box.classList.toggle("chosen", k === region);
    }
    this.name(order, region ?? order[0]);
    const rows = order.map((k) => this.rows[k]);
    if (rows.some((row, place) => row !== this.list.children[place]) || rows.length !== this.list.children.length) {
      this.list.replaceChildren(...rows);
      this.reach(this.list);
    }
    // the strongest above the others, and what is chosen above all
    const above = [...order].reverse().sort((a, b) => (a === region) - (b === region));
    this.boxes.replaceChildren(...above.map((k) => this.drawn[k]));
    const some = order.length < this.rows.length ? order.length + " of " + this.rows.length : "all " + order.length;
    this.caption.textContent = "Regions: " + some + ", shares of the attention on regions";
    this.svg.setAttribute("aria-label", "Image " + this.sentence.image + ", " + this.rows.length +
      " regions; most attended: " + order.slice(0, 3).map((k) => this.label(k)).join(", "));
  }

  /* Numbers at the corners of boxes, the label of one; each where none of the others is. */
  name(order, named) {
    const placed = [], texts = [];
    for (const k of [named, ...order.filter((other) => other !== named)]) {
      const [x, y] = this.sentence.regions[k].box, text = make("text");
      text.textContent = k === named ? this.label(k) : k + 1;
      const width = 10 * text.textContent.length;
      const left = Math.max(2, Math.min(x + 6, this.data.width - width - 2));
      let top = Math.min(y + 19, this.height() - 5);
      const meets = (other) => Math.abs(other.top - top) < 18 && other.left < left + width &&
        left < other.left + other.width;
      for (let tries = 0; placed.some(meets) && tries < 8; tries += 1) top = top + 19 < this.height() ? top + 19 : 19;
      placed.push({ left, top, width });
      text.setAttribute("x", left);
      text.setAttribute("y", top);
      texts.push(text);
    }
    this.names.replaceChildren(...texts);
  }

  text(query) {
    return this.words.find((word) => word.query === query).text;
  }

  ofWord(query, onWords) {
    const sum = total(this.onRegions), texts = {};
    for (const { text, key } of this.words) if (key >= 0) texts[key] = text;
    const best = (weights, name, whole) => byWeight(weights).filter((k) => weights[k] > 0).slice(0, 3)
      .map((k) => name(k) + " " + percent(weights[k] / whole)).join(", ");
    const words = total(onWords), parts = [];
    if (sum > 0) parts.push(percent(sum) + " on regions (" + best(this.onRegions, (k) => this.label(k), sum) + ")");
    if (words > 0) parts.push(percent(words) + " on words (" + best(onWords, (k) => texts[k], words) + ")");
    return this.text(query) + ": of its attention " + parts.join(", ");
  }

  ofRegion(region, column) {
    const best = byWeight(column).filter((q) => column[q] > 0).slice(0, 4);
    return this.label(region) + " is attended to by " + (best.length
      ? best.map((q) => this.text(q) + " " + percent(column[q])).join(", ") : "no word");
  }
}
