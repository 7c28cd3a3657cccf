"use strict";
(() => {
  const data = JSON.parse(document.getElementById("attention").textContent);
  const layer = document.getElementById("layer");
  const percent = (value) => (value / 10).toFixed(value < 100 ? 1 : 0) + "\u00a0%";
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
