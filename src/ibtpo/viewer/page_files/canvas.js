"use strict";
// A tree as cards in columns, left to right, with edges behind them: drawing, selection, folding, zoom.

const CARD = { width: 216, height: 84, across: 268, down: 98, margin: 28 };
const LOW = { height: 62, down: 74 }; // for trees whose steps fit into a line
const READABLE = 0.7; // the zoom under which the text of a card is too small to read
const SVG = "http://www.w3.org/2000/svg";

class Canvas {
  t = null;
  selected = 0;
  collapsed = new Set();
  by = "p_hat";
  zoom = 1;
  least = 170; // pixels from a column to the next
  more = 0; // pixels of height beyond those of number and text
  hits = [];

  /** prefix: what the ids of the cards begin with; label: what a screen reader calls the tree. */
  constructor(prefix, label) {
    this.prefix = prefix;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.cards = el("div", { class: "cards", role: "tree", "aria-label": label });
    this.plane = el("div", { class: "plane" }, this.cards);
    this.plane.prepend(this.svg);
    this.sizer = el("div", { class: "sizer" }, this.plane);
    this.canvas = el("div", { class: "canvas", tabIndex: -1 }, this.sizer);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.cards.addEventListener("click", (event) => this.click(event));
  }

  // What the two pages of trees do in their own way.
  alive() { return true; } // whether a step is shown yet
  decorate() {} // marks of a card: (node, card)
  painted() {} // after all cards were coloured
  picked() {} // after a step was selected: (node, remember)
  enter() {} // the key Enter on a step

  load(t, node) {
    Object.assign(this, { t, selected: t.parent[node] === undefined ? 0 : node, collapsed: new Set(), hits: [] });
    const lengths = t.text.slice(1).map((s) => oneLine(s.slice(0, 200)).length).sort((a, b) => a - b);
    const short = (lengths[Math.floor(0.9 * lengths.length)] ?? 99) <= 30;
    // Cards as wide, and rows as far apart, as lets all of the tree be seen at once, within bounds.
    const { clientWidth, clientHeight } = this.canvas;
    const { height, down: apart } = short ? LOW : CARD;
    const base = { ...CARD, height: height + this.more, down: apart + this.more };
    const columns = 1 + t.depth.reduce((a, b) => Math.max(a, b), 0);
    const rows = t.children.filter((c) => !c.length).length;
    const across = Math.max(short ? this.least - 20 : this.least, Math.min(CARD.across, (clientWidth / READABLE - 2 * CARD.margin) / columns));
    const width = Math.min(CARD.width, Math.floor(across - (across < 200 ? 22 : 40)));
    const down = Math.max(base.height + 5, Math.min(base.down, (clientHeight / READABLE - 2 * CARD.margin) / rows));
    this.size = { ...base, width, across, down };
    this.plane.classList.toggle("narrow", width < 170);
    this.plane.classList.toggle("short", short);
    this.plane.style.setProperty("--card-width", `${width}px`);
    this.plane.style.setProperty("--card-height", `${base.height}px`);
    this.zoom = 1;
    this.lay();
  }

  /** As much of the tree as can be read: all of it if it fits, else from the prompt on. */
  open() {
    this.scale(Math.max(READABLE, this.whole()));
    this.reveal(this.selected, true);
  }

  // --- drawing -----------------------------------------------------------------------------------------------

  /** Places the cards anew: after opening a tree, folding or unfolding. */
  lay() {
    const t = this.t;
    const open = (i) => (this.collapsed.has(i) ? [] : t.children[i]);
    const root = d3.hierarchy(0, open);
    d3.tree().nodeSize([this.size.down, this.size.across]).separation(() => 1)(root);
    const nodes = root.descendants();
    let low = Infinity, high = -Infinity, deep = 0;
    for (const n of nodes) [low, high, deep] = [Math.min(low, n.x), Math.max(high, n.x), Math.max(deep, n.depth)];
    this.width = 2 * CARD.margin + deep * this.size.across + this.size.width;
    this.height = 2 * CARD.margin + high - low + this.size.height;
    this.at = new Map(nodes.map((n) => [n.data, { x: CARD.margin + n.y, y: CARD.margin + n.x - low, order: n }]));
    // In reading order, so that Tab, screen readers and Ctrl-F meet a step before what follows it.
    this.order = [];
    root.eachBefore((n) => this.order.push(n.data));
    this.card = new Map(this.order.map((i) => [i, this.makeCard(i)]));
    this.cards.replaceChildren(...this.card.values());
    this.edge = new Map();
    for (const i of this.order) if (i) this.edge.set(i, this.makeEdge(i));
    this.svg.replaceChildren(...this.edge.values());
    this.svg.setAttribute("width", this.width);
    this.svg.setAttribute("height", this.height);
    this.path = [];
    this.scale(this.zoom);
    this.paint();
  }

  makeCard(i) {
    const t = this.t;
    const place = this.at.get(i);
    const siblings = i ? t.children[t.parent[i]] : [0];
    const given = t.given.has(i);
    const top = el("span", { class: "line" }, el("span", { class: "number" }, i ? `${i}` : "Prompt"));
    if (given) top.append(el("span", { class: "by", title: "an observation: the environment wrote it, the model sampled none of it" }, "↩"));
    if (t.draws[i] > 1) top.append(el("span", { class: "draws", title: `${given ? "given" : "drawn"} ${t.draws[i]} times` }, `×${count(t.draws[i])}`));
    for (const v of summary(t.verdicts[i])) top.append(el("span", { class: `verdict ${v.kind}`, title: v.words }, v.sign, el("span", { class: "words" }, ` ${v.brief}`), v.n > 1 ? ` ×${v.n}` : ""));
    top.append(el("span", { class: "value" }));
    const card = el("div", {
      class: `card${i ? "" : " root"}${given ? " given" : ""}${t.verdicts[i].length ? " has-verdict" : ""}`, role: "treeitem", id: `${this.prefix}${i}`, tabIndex: -1, "data-node": i,
      "aria-level": t.depth[i] + 1, "aria-posinset": siblings.indexOf(i) + 1, "aria-setsize": siblings.length, "aria-selected": "false",
      "data-sign": t.verdicts[i].map((v) => v.sign[0]).join("").slice(0, 4) || undefined,
      vars: { left: `${place.x}px`, top: `${place.y}px` },
    }, top, el("span", { class: "text", dir: "auto" }));
    if (t.children[i].length) {
      const folded = this.collapsed.has(i);
      card.setAttribute("aria-expanded", String(!folded));
      card.append(el("span", { class: `fold${folded ? "" : " open"}`, "aria-hidden": "true", title: "Fold or unfold (Space)" }, folded ? `+${count(below(t, i))}` : "−"));
    }
    this.decorate(i, card);
    return card;
  }

  makeEdge(i) {
    const [a, b] = [this.at.get(this.t.parent[i]), this.at.get(i)];
    const [x0, y0, x1, y1] = [a.x + this.size.width, a.y + this.size.height / 2, b.x, b.y + this.size.height / 2];
    const path = document.createElementNS(SVG, "path");
    const half = (x0 + x1) / 2;
    path.setAttribute("d", `M${x0},${y0}C${half},${y0} ${half},${y1} ${x1},${y1}`);
    path.style.setProperty("--w", `${Math.min(14, 1.2 + 1.6 * Math.log2(this.t.draws[i])).toFixed(2)}px`);
    return path;
  }

  /** Colours and texts of the cards. */
  paint() {
    const t = this.t;
    const wanted = this.hits.length ? app.treeText() : "";
    const hits = new Set(this.hits);
    for (const [i, card] of this.card) {
      const value = t[this.by][i];
      const tone = onScale(value, this.by);
      card.classList.toggle("none", tone === null);
      card.classList.toggle("high", tone > 0);
      card.classList.toggle("low", tone < 0);
      card.style.setProperty("--p", `${Math.round(100 * Math.abs(tone ?? 0))}%`);
      const sign = arrow(value, this.by);
      card.querySelector(".value").replaceChildren(COLOURS[this.by].show(value), ...(sign ? [el("span", { class: "sign" }, sign)] : []));
      card.classList.toggle("hit", hits.has(i));
      card.querySelector(".text").replaceChildren(...highlighted(excerpt(t, i, hits.has(i) ? wanted : ""), hits.has(i) ? wanted : ""));
    }
    this.markPath();
    this.painted();
  }

  /** Marks the way from the prompt to the selected step, and that alone. */
  markPath() {
    const mark = (on) => this.path.forEach((i) => [this.card.get(i), this.edge.get(i)].forEach((e) => e?.classList.toggle("on-path", on)));
    mark(false);
    this.path = pathTo(this.t, this.selected);
    mark(true);
  }

  // --- selection ---------------------------------------------------------------------------------------------

  select(node, { focus = true, centre = false, remember = true } = {}) {
    for (const up of pathTo(this.t, node).slice(0, -1)) if (this.collapsed.has(up)) this.collapsed.delete(up), (this.stale = true);
    if (this.stale) this.stale = this.lay();
    const before = this.card.get(this.selected);
    this.selected = node;
    for (const card of [before, this.card.get(node)]) if (card) card.tabIndex = -1;
    for (const card of this.cards.querySelectorAll('[aria-selected="true"]')) card.setAttribute("aria-selected", "false");
    const card = this.card.get(node);
    card.tabIndex = 0;
    card.setAttribute("aria-selected", "true");
    this.markPath();
    this.reveal(node, centre);
    if (focus) card.focus({ preventScroll: true });
    this.picked(node, remember);
  }

  reveal(node, centre) {
    const { x, y } = this.at.get(node);
    const z = this.zoom;
    const c = this.canvas;
    const [left, top, right, bottom] = [x * z - 40, y * z - 30, (x + this.size.width) * z + 40, (y + this.size.height) * z + 30];
    if (centre) c.scrollTo(node ? (left + right - c.clientWidth) / 2 : 0, (top + bottom - c.clientHeight) / 2);
    else {
      if (left < c.scrollLeft) c.scrollLeft = left;
      else if (right > c.scrollLeft + c.clientWidth) c.scrollLeft = Math.min(left, right - c.clientWidth);
      if (top < c.scrollTop) c.scrollTop = top;
      else if (bottom > c.scrollTop + c.clientHeight) c.scrollTop = bottom - c.clientHeight;
    }
  }

  click(event) {
    const card = event.target.closest(".card");
    if (!card || String(getSelection())) return; // text is being selected
    const node = Number(card.dataset.node);
    if (event.target.closest(".fold")) this.fold(node);
    else this.select(node);
  }

  fold(node) {
    if (!this.t.children[node].length) return;
    if (!this.collapsed.delete(node)) this.collapsed.add(node);
    this.lay();
    this.select(node);
  }

  unfold() {
    this.collapsed.clear();
    this.lay();
    this.select(this.selected);
  }

  key(event) {
    if (event.target.closest("input, select, button") || event.ctrlKey || event.metaKey || event.altKey) return;
    const t = this.t;
    const i = this.selected;
    const open = this.collapsed.has(i) ? [] : t.children[i].filter((c) => this.alive(c));
    const to = {
      ArrowRight: () => (this.collapsed.has(i) ? this.fold(i) : open[(open.length - 1) >> 1]),
      ArrowLeft: () => (i ? t.parent[i] : null),
      ArrowDown: () => this.beside(i, 1),
      ArrowUp: () => this.beside(i, -1),
      Home: () => 0,
      End: () => this.order.filter((n) => this.alive(n)).at(-1),
      " ": () => this.fold(i),
      Enter: () => this.enter(),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    const node = to();
    if (typeof node === "number") this.select(node);
  }

  /** The next card in the same column. */
  beside(i, by) {
    const column = this.order.filter((n) => this.t.depth[n] === this.t.depth[i] && this.alive(n));
    return column[column.indexOf(i) + by];
  }

  // --- zoom --------------------------------------------------------------------------------------------------

  scale(zoom) {
    const c = this.canvas;
    const before = this.zoom;
    const middle = [(c.scrollLeft + c.clientWidth / 2) / before, (c.scrollTop + c.clientHeight / 2) / before];
    this.zoom = Math.max(0.03, Math.min(2, Math.abs(zoom - 1) < 0.06 ? 1 : zoom));
    this.plane.classList.toggle("far", this.zoom < 0.4);
    this.plane.style.transform = `scale(${this.zoom})`;
    this.plane.style.setProperty("--thicker", Math.max(1, 0.7 / this.zoom)); // lines are seen from far away, too
    Object.assign(this.plane.style, { width: `${this.width}px`, height: `${this.height}px` });
    Object.assign(this.sizer.style, { width: `${this.width * this.zoom}px`, height: `${this.height * this.zoom}px` });
    if (this.zoomText) this.zoomText.textContent = `${Math.round(100 * this.zoom)} %`;
    if (this.zoom !== before) c.scrollTo(middle[0] * this.zoom - c.clientWidth / 2, middle[1] * this.zoom - c.clientHeight / 2);
  }

  /** The zoom at which the whole tree can be seen. */
  whole() {
    return Math.min(1, this.canvas.clientWidth / this.width, this.canvas.clientHeight / this.height);
  }

  fit() {
    this.scale(this.whole());
  }
}

/** Equal verdicts once, with how many they are. */
function summary(verdicts) {
  const out = new Map();
  for (const v of verdicts) {
    const same = out.get(v.words);
    if (same) same.n++;
    else out.set(v.words, { ...v, n: 1 });
  }
  return [...out.values()];
}

function below(t, node) {
  let n = 0;
  for (const stack = [...t.children[node]]; stack.length; n++) stack.push(...t.children[stack.pop()]);
  return n;
}

function leavesInOrder(t) {
  const out = [];
  for (const stack = [0]; stack.length; ) {
    const node = stack.pop();
    if (t.verdicts[node].length) out.push(node);
    stack.push(...[...t.children[node]].reverse());
  }
  return out;
}

/** The start of a step's text, or what stands around the words searched for. */
function excerpt(t, i, wanted) {
  let text = t.text[i];
  if (i === 0 && text.length > facts.shared) text = text.slice(facts.shared);
  const at = wanted ? text.toLowerCase().indexOf(wanted) : -1;
  if (at > 60) text = `…${text.slice(at - 30)}`;
  return oneLine(text.slice(0, 600)).slice(0, 200) || (i ? "(no text)" : "(empty prompt)");
}
