
/* The page: its data, the order and search of sentences, pages of them, the index, and the controls. */
(async () => {
  const SHOWN = 10;
  const at = (id) => document.getElementById(id);
  if (typeof DecompressionStream === "undefined") {
    at("found").textContent = "This page needs a browser of 2023 or later.";
    return;
  }
  const packed = Uint8Array.from(atob(at("data").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const end = bytes.indexOf(10);
  const data = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  data.attention = bytes.subarray(end + 1);

  const settings = {
    plane: data.planes.indexOf(data.plane), boxes: Math.min(5, data.regions), view: null,
    choose(view) {
      if (this.view && this.view !== view) this.view.choose(null);
      this.view = view;
    },
  };
  const texts = data.sentences.map((sentence) => [sentence.number, sentence.image ?? "",
    ...sentence.lines.flatMap((line) => [line.words.map(([text]) => text).join(" ")]),
    ...sentence.regions.map((region) => data.labels[region.label])].join("\n").toLowerCase());
  const layer = at("layer"), boxes = at("boxes"), search = at("search"), order = at("order"), index = at("index");
  let kept = [], page = 0, views = [];

  const pages = () => Math.max(1, Math.ceil(kept.length / SHOWN));

  const arrange = () => {
    const wanted = search.value.toLowerCase().split(" ").filter(Boolean);
    kept = data.sentences.filter((_, k) => wanted.every((part) => texts[k].includes(part)));
    if (order.value === "line") kept.sort((a, b) => a.number - b.number);
    else if (order.value === "change") kept.sort((a, b) => b.change - a.change || a.number - b.number);
    index.replaceChildren(...kept.map((sentence) => make("li", {}, make("a", { href: "#line-" + sentence.number },
      make("b", {}, String(sentence.number)), " ",
      sentence.lines[0].words.map(([text]) => text).filter((text) => text !== "</s>").join(" "),
      sentence.mark ? make("small", {}, sentence.mark) : null))));
    show(0);
  };

  const show = (wanted) => {
    page = Math.min(Math.max(wanted, 0), pages() - 1);
    settings.view = null;
    views = kept.slice(page * SHOWN, (page + 1) * SHOWN).map((sentence) => new SentenceView(sentence, data, settings));
    at("sentences").replaceChildren(...views.map((view) => view.article));
    at("page").textContent = (page + 1) + " of " + pages();
    at("previous").disabled = page === 0;
    at("next").disabled = page === pages() - 1;
    const all = data.sentences.length;
    at("found").textContent = kept.length === all ? all + " lines" : kept.length + " of " + all + " lines";
    [...index.children].forEach((entry, k) => {
      const here = Math.floor(k / SHOWN) === page;
      if (here) entry.firstChild.setAttribute("aria-current", "true");
      else entry.firstChild.removeAttribute("aria-current");
    });
  };

  const turn = (step) => {
    show(page + step);
    at("sentences").scrollIntoView();
  };

  /* Go to #line-N, wherever it is. */
  const follow = () => {
    const number = Number(location.hash.replace("#line-", ""));
    let place = kept.findIndex((sentence) => sentence.number === number);
    if (place < 0 && data.sentences.some((sentence) => sentence.number === number)) {
      search.value = "";
      arrange();
      place = kept.findIndex((sentence) => sentence.number === number);
    }
    if (place < 0) return;
    if (Math.floor(place / SHOWN) !== page) show(Math.floor(place / SHOWN));
    const title = at("title-" + number);
    title.tabIndex = -1;
    title.focus({ preventScroll: true });
    at("line-" + number).scrollIntoView();
  };

  for (const plane of data.planes) {
    const name = plane === 0 ? "mean of layers" : "layer " + plane;
    layer.append(make("option", { value: plane, selected: plane === data.plane }, name));
  }
  layer.addEventListener("change", () => {
    settings.plane = data.planes.indexOf(Number(layer.value));
    for (const view of views) view.update();
  });
  boxes.max = data.regions;
  boxes.value = settings.boxes;
  const say = () => { at("count").textContent = settings.boxes + " of " + data.regions; };
  boxes.addEventListener("input", () => {
    settings.boxes = Number(boxes.value);
    say();
    for (const view of views) view.update();
  });
  say();
  search.addEventListener("input", arrange);
  order.addEventListener("change", arrange);
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  window.addEventListener("hashchange", follow);
  at("lines").open = window.matchMedia("(min-width: 75rem)").matches;
  arrange();
  if (location.hash) follow();
  document.body.dataset.ready = "true";
})();
