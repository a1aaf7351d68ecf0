"use strict";
// The list of all trees, or of all problems that two sets have in common: filters, search, order. Only the rows in sight
// are in the document.

const TREES = {
  name: "Trees",
  filters: {
    all: ["All", () => true, "every tree"],
    effective: ["Effective", (r) => r.effective, "answers differ in correctness: the tree carries a signal"],
    rescued: ["Rescued", (r) => r.rescued, "the first answers were all right or all wrong until a branch made them differ"],
    uniform: ["Uniform", (r) => r.uniform, "all answers are equally right: no signal but the IB term's"],
    right: ["All right", (r) => r.kind === "right", "every answer is right"],
    wrong: ["All wrong", (r) => r.kind === "wrong", "every answer is wrong"],
  },
  columns: [
    { key: "id", name: "Tree", text: true },
    { key: "from", name: "Of", text: true, about: "checkpoint, run or file", off: facts.sets.length < 2 },
    { key: "step", name: "Step", about: "training step", off: !facts.run },
    { key: "prompt", name: "Prompt", text: true },
    { key: "answers", name: "Answers", about: "G, the number of trajectories" },
    { key: "reward", name: "Reward", about: "average of the known rewards" },
    { key: "ib", name: "IB-Score", about: "mean over the steps that have children" },
    { key: "cov", name: "Cov η", about: "Cov(η1, η2) over siblings: is confidence where the information is" },
    { key: "signal", name: "Signal", text: true, fixed: true },
  ].filter((c) => !c.off),
  none: (name, about) => `No tree here is “${name.toLowerCase()}” (${about}).`,
  row: "tree",
};
const CHANGES = {
  name: "Changes",
  filters: {
    changed: ["All", () => true, "every problem that both have a tree of"],
    fell: ["Broken", (r) => r.change < -1e-9, "a smaller share of the answers is right than before"],
    rose: ["Mended", (r) => r.change > 1e-9, "a larger share of the answers is right than before"],
    lost: ["Lost", (r) => r.before > 0 && r.after === 0, "some answers were right before, and none is now"],
    gained: ["Gained", (r) => r.before === 0 && r.after > 0, "no answer was right before, and some are now"],
    same: ["Same", (r) => r.change !== null && Math.abs(r.change) <= 1e-9, "the same share of the answers is right"],
  },
  columns: [
    { key: "id", name: "Problem", text: true },
    { key: "prompt", name: "Prompt", text: true },
    { key: "before", name: "Before", about: "share of right answers" },
    { key: "after", name: "After", about: "share of right answers" },
    { key: "change", name: "Change", about: "after − before" },
    { key: "own", name: "First answers", about: "change of the share of right ones among the first answers, which are the policy's own: branches bias that of all answers" },
    { key: "ibchange", name: "IB-Score", about: "change of the IB-Score" },
  ],
  none: (name, about) => `No problem here is “${name.toLowerCase()}” (${about}).`,
  row: "problem",
};
/** The kind of list that has a filter of this name; undefined if none has. */
const kindWith = (filter) => [TREES, CHANGES].find((kind) => Object.hasOwn(kind.filters, filter));

/** What kind of tree it is, the most telling word alone. */
function tagsOf(row) {
  const key = ["rescued", "effective", "right", "wrong", "uniform"].find((k) => TREES.filters[k][1](row));
  if (!key) return [];
  const [name, , about] = TREES.filters[key];
  return [el("span", { class: `tag ${key}`, title: about }, name.toLowerCase())];
}

/** A share of answers as a bar. */
const barOf = (share) => el("span", { class: "bar", "aria-hidden": "true", vars: { "--p": `${Math.round(100 * Math.max(0, Math.min(1, share)))}%` } });

const list = {
  kind: TREES,
  rows: [], // of this kind
  shown: [], // what passes filter and search, in order
  filter: "all",
  text: "",
  hits: null, // places of the trees whose steps hold the text; null: not searched
  sort: null, // {key, up}
  active: 0,
  rowHeight: 44,
  drawn: new Map(), // place in `shown` -> its row, of those in the document

  build() {
    this.kinds = el("div", { class: "segments", role: "radiogroup", "aria-label": "What to list", hidden: !pairs.several },
      ...[CHANGES, TREES].map((kind) => el("label", {}, el("input", { type: "radio", name: "kind", value: kind.name, onchange: () => this.choose(Object.keys(kind.filters)[0]) }), kind.name)));
    this.filters = el("div", { class: "filters", role: "group", "aria-label": "Filter" });
    this.head = el("div", { role: "row", class: "row header" });
    this.body = el("div", { class: "rows", role: "rowgroup" });
    this.empty = el("div", { class: "empty", hidden: true });
    this.scroller = el("div", { class: "scroller", tabIndex: -1 },
      el("div", { class: "grid", role: "table", "aria-label": "Trees" },
        el("div", { role: "rowgroup", class: "head" }, this.head),
        this.body),
      this.empty);
    this.table = this.scroller.firstChild;
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw(true)).observe(this.scroller);
    this.scroller.addEventListener("keydown", (event) => this.key(event));
    const notes = facts.notes.length
      ? el("details", { class: "notes" }, el("summary", {}, `${many(facts.notes.length, "line")} could not be read and ${facts.notes.length === 1 ? "is" : "are"} left out`),
          el("ul", {}, ...facts.notes.map((n) => el("li", {}, n))))
      : null;
    const remarks = facts.remarks.map((r) => el("p", { class: "notes" }, r));
    byId("list").append(...[...remarks, notes, el("div", { class: "top-line" }, this.kinds, pairs.build(), this.filters), this.scroller].filter(Boolean));
    this.use(pairs.several ? CHANGES : TREES);
  },

  /** Lists trees or changes. */
  use(kind, filter = Object.keys(kind.filters)[0]) {
    this.kind = kind;
    this.filter = filter;
    this.sort = null;
    this.rows = kind === TREES ? app.rows : pairs.rows;
    for (const input of this.kinds.querySelectorAll("input")) input.checked = input.value === kind.name;
    pairs.choice.hidden = kind === TREES;
    this.chips = Object.entries(kind.filters).map(([key, [name, test, about]]) =>
      el("button", { type: "button", class: "chip", title: about, "data-filter": key, onclick: () => this.choose(key) },
        name, el("span", { class: "n" }, count(this.rows.filter(test).length))));
    this.filters.replaceChildren(...this.chips);
    this.heads = kind.columns.map((c) => {
      const head = el("span", { role: "columnheader", class: `c-${c.key}` });
      head.append(c.fixed ? c.name : el("button", { type: "button", title: c.about ?? "", onclick: () => this.order(c.key) }, c.name));
      return head;
    });
    this.head.replaceChildren(...this.heads);
    this.table.setAttribute("aria-label", kind.name);
    this.table.classList.toggle("changes", kind === CHANGES);
    this.apply();
  },

  choose(filter) {
    const kind = kindWith(filter) ?? this.kind;
    if (kind !== this.kind) this.use(kind, filter);
    this.filter = filter;
    this.apply();
    app.remember();
  },

  order(key) {
    const text = this.kind.columns.find((c) => c.key === key).text || key === "step";
    const first = Boolean(text) || this.filter === "fell"; // texts, steps and falls go up first, scores down
    if (this.sort?.key !== key) this.sort = { key, up: first };
    else if (this.sort.up === first) this.sort.up = !first;
    else this.sort = null; // the file's own order
    this.apply();
  },

  /** Filters and sorts anew. keep: stay where the reader is. */
  apply(keep = false) {
    const test = this.kind.filters[this.filter][1];
    const text = this.text;
    const hit = (r) => (r.pair ? r.pair.some((one) => this.hits?.has(one.at)) : this.hits?.has(r.at));
    const fits = (r) => test(r) && (!text || r.low.includes(text) || hit(r));
    this.shown = this.rows.filter(fits);
    if (this.sort) {
      const { key, up } = this.sort;
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      const way = up ? 1 : -1;
      this.shown.sort((a, b) => {
        const [x, y] = [a[key], b[key]];
        if (x === null || y === null) return (x === null) - (y === null) || a.at - b.at; // none comes last
        return way * (typeof x === "string" ? compare(x, y) : x - y) || a.at - b.at;
      });
    }
    for (const chip of this.chips) chip.setAttribute("aria-pressed", chip.dataset.filter === this.filter);
    this.kind.columns.forEach((c, i) => {
      const mine = this.sort?.key === c.key;
      this.heads[i].setAttribute("aria-sort", mine ? (this.sort.up ? "ascending" : "descending") : "none");
    });
    if (!keep) this.active = this.scroller.scrollTop = 0;
    this.table.setAttribute("aria-rowcount", this.shown.length + 1);
    this.empty.hidden = this.shown.length > 0;
    if (!this.shown.length) this.sayEmpty();
    this.draw(true);
    app.sayFound();
  },

  sayEmpty() {
    if (app.reading) return this.empty.replaceChildren(el("p", {}, "Nothing so far; looking into the steps of all trees…"));
    const [name, , about] = this.kind.filters[this.filter];
    const first = Object.keys(this.kind.filters)[0];
    const why = this.text ? `No ${this.kind.row} holds “${visible(this.text)}”${this.filter === first ? "" : ` among “${name}”`}.` : this.kind.none(name, about);
    const all = el("button", { type: "button", onclick: () => { app.clearSearch(); this.choose(first); } }, `Show all ${this.kind.row}s`);
    this.empty.replaceChildren(el("p", {}, why), all);
  },

  /** Draws the rows in sight and a few around them. */
  draw(anew = false) {
    if (byId("list").hidden) return;
    const height = (this.rowHeight = matchMedia("(max-width: 700px)").matches ? 84 : 44);
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / height) - 8);
    const last = Math.min(this.shown.length, first + Math.ceil(this.scroller.clientHeight / height) + 16);
    if (!anew && first === this.first && last === this.last) return;
    [this.first, this.last] = [first, last];
    this.body.style.height = `${this.shown.length * height}px`;
    const focused = this.body.contains(document.activeElement);
    for (const [i, row] of this.drawn) if (anew || i < first || i >= last) { row.remove(); this.drawn.delete(i); }
    let next = this.body.firstChild; // rows that stay in sight are not drawn again
    for (let i = first; i < last; i++) {
      const there = this.drawn.get(i);
      if (there) { next = there.nextSibling; continue; }
      this.drawn.set(i, this.body.insertBefore(this.row(this.shown[i], i, height), next));
    }
    if (focused && !this.body.contains(document.activeElement)) this.body.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  },

  row(row, i, height) {
    const tags = el("span", { role: "cell", class: "c-signal" });
    tags.append(...tagsOf(row));
    const cell = (key, text, title) => el("span", { role: "cell", class: `c-${key}`, title }, text);
    const number = (key, text) => el("span", { role: "cell", class: `c-${key} ${row[key] > 1e-9 ? "up" : row[key] < -1e-9 ? "down" : ""}` }, text);
    const share = (key) => el("span", { role: "cell", class: `c-${key}` }, row[key] === null ? null : barOf(row[key]), plain(row[key]));
    const cells = {
      // The link is the row's handle for the keyboard; its area covers the row (see the styles).
      id: () => el("span", { role: "cell", class: "c-id" }, el("a", { href: app.link(row), tabIndex: i === this.active ? 0 : -1, "data-row": i, dir: "auto" }, visible(row.id) || "(no id)")),
      step: () => cell("step", row.step),
      prompt: () => el("span", { role: "cell", class: "c-prompt", dir: "auto" }, visible(row.prompt) || el("i", {}, "empty prompt")),
      answers: () => cell("answers", count(row.answers)),
      from: () => cell("from", facts.sets[row.set], facts.sets[row.set]),
      reward: () => share("reward"),
      before: () => share("before"),
      after: () => share("after"),
      change: () => number("change", signed(row.change, 2)),
      own: () => number("own", signed(row.own, 2)),
      ibchange: () => number("ibchange", signed(row.ibchange)),
      ib: () => cell("ib", signed(row.ib)),
      cov: () => cell("cov", signed(row.cov)),
      signal: () => tags,
    };
    return el("div", { role: "row", class: "row", "aria-rowindex": i + 2, vars: { top: `${i * height}px` } }, ...this.kind.columns.map((c) => cells[c.key]()));
  },

  key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight) - 2);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !this.shown.length) return;
    event.preventDefault();
    this.focus(this.active + by);
  },

  /** Moves the keyboard's row and scrolls it into sight. */
  focus(i) {
    this.active = Math.max(0, Math.min(this.shown.length - 1, i));
    const top = this.active * this.rowHeight;
    const room = this.scroller.clientHeight - this.rowHeight - (this.body.offsetTop || 0);
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top > this.scroller.scrollTop + room) this.scroller.scrollTop = top - room;
    this.draw(true);
    this.body.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  },

  /** The row `by` places after this one in the list as it is shown; null at its ends. */
  neighbour(row, by) {
    const i = this.shown.indexOf(row);
    const all = row.pair ? pairs.rows : app.rows;
    return i < 0 ? (all[row.at + by] ?? null) : (this.shown[i + by] ?? null);
  },
};
