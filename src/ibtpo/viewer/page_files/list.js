"use strict";
// The list of all trees: filters, search, order; only the rows in sight are in the document.

const FILTERS = {
  all: ["All", () => true, "every tree"],
  effective: ["Effective", (r) => r.effective, "answers differ in correctness: the tree carries a signal"],
  rescued: ["Rescued", (r) => r.rescued, "the first answers were all right or all wrong until a branch made them differ"],
  uniform: ["Uniform", (r) => r.uniform, "all answers are equally right: no signal but the IB term's"],
  right: ["All right", (r) => r.kind === "right", "every answer is right"],
  wrong: ["All wrong", (r) => r.kind === "wrong", "every answer is wrong"],
};
const COLUMNS = [
  { key: "id", name: "Tree", text: true },
  { key: "step", name: "Step", about: "training step", run: true },
  { key: "prompt", name: "Prompt", text: true },
  { key: "answers", name: "Answers", about: "G, the number of trajectories" },
  { key: "reward", name: "Reward", about: "average of the known rewards" },
  { key: "ib", name: "IB-Score", about: "mean over the steps that have children" },
  { key: "cov", name: "Cov η", about: "Cov(η1, η2) over siblings: is confidence where the information is" },
  { key: "signal", name: "Signal", text: true, fixed: true },
].filter((c) => facts.run || !c.run);

/** What kind of tree it is, the most telling word alone. */
function tagsOf(row) {
  const key = ["rescued", "effective", "right", "wrong", "uniform"].find((k) => FILTERS[k][1](row));
  return key ? [el("span", { class: `tag ${key}`, title: FILTERS[key][2] }, FILTERS[key][0].toLowerCase())] : [];
}

const list = {
  rows: [], // the index
  shown: [], // what passes filter and search, in order
  filter: "all",
  text: "",
  hits: null, // places of the trees whose steps hold the text; null: not searched
  sort: null, // {key, up}
  active: 0,
  rowHeight: 44,
  drawn: new Map(), // place in `shown` -> its row, of those in the document

  build(rows) {
    this.rows = rows;
    const chips = Object.entries(FILTERS).map(([key, [name, test, about]]) =>
      el("button", { type: "button", class: "chip", title: about, "data-filter": key, onclick: () => this.choose(key) },
        name, el("span", { class: "n" }, count(rows.filter(test).length))));
    this.chips = chips;
    this.heads = COLUMNS.map((c) => {
      const head = el("span", { role: "columnheader", class: `c-${c.key}` });
      head.append(c.fixed ? c.name : el("button", { type: "button", title: c.about ?? "", onclick: () => this.order(c.key) }, c.name));
      return head;
    });
    this.body = el("div", { class: "rows", role: "rowgroup" });
    this.empty = el("div", { class: "empty", hidden: true });
    this.scroller = el("div", { class: "scroller", tabIndex: -1 },
      el("div", { class: "grid", role: "table", "aria-label": "Trees" },
        el("div", { role: "rowgroup", class: "head" }, el("div", { role: "row", class: "row header" }, ...this.heads)),
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
    const filters = el("div", { class: "filters", role: "group", "aria-label": "Filter" }, ...chips);
    const remarks = facts.remarks.map((r) => el("p", { class: "notes" }, r));
    byId("list").append(...[...remarks, notes, filters, this.scroller].filter(Boolean));
    this.apply();
  },

  choose(filter) {
    this.filter = FILTERS[filter] ? filter : "all";
    this.apply();
    app.remember();
  },

  order(key) {
    const text = COLUMNS.find((c) => c.key === key).text || key === "step";
    const first = Boolean(text); // texts and steps go up first, scores down
    if (this.sort?.key !== key) this.sort = { key, up: first };
    else if (this.sort.up === first) this.sort.up = !first;
    else this.sort = null; // the file's own order
    this.apply();
  },

  /** Filters and sorts anew. keep: stay where the reader is. */
  apply(keep = false) {
    const test = FILTERS[this.filter][1];
    const text = this.text;
    const fits = (r) => test(r) && (!text || r.low.includes(text) || this.hits?.has(r.at));
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
    COLUMNS.forEach((c, i) => {
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
    const [name, , about] = FILTERS[this.filter];
    const why = this.text ? `No tree holds “${visible(this.text)}”${this.filter === "all" ? "" : ` among “${name}”`}.` : `No tree here is “${name.toLowerCase()}” (${about}).`;
    const all = el("button", { type: "button", onclick: () => { app.clearSearch(); this.choose("all"); } }, "Show all trees");
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
    const bar = el("span", { class: "bar", "aria-hidden": "true", vars: { "--p": `${Math.round(100 * Math.max(0, Math.min(1, row.reward ?? 0)))}%` } });
    const cells = {
      // The link is the row's handle for the keyboard; its area covers the row (see the styles).
      id: () => el("span", { role: "cell", class: "c-id" }, el("a", { href: app.link(row), tabIndex: i === this.active ? 0 : -1, "data-row": i, dir: "auto" }, visible(row.id) || "(no id)")),
      step: () => cell("step", row.step),
      prompt: () => el("span", { role: "cell", class: "c-prompt", dir: "auto" }, visible(row.prompt) || el("i", {}, "empty prompt")),
      answers: () => cell("answers", count(row.answers)),
      reward: () => el("span", { role: "cell", class: "c-reward" }, row.reward === null ? null : bar, plain(row.reward)),
      ib: () => cell("ib", signed(row.ib)),
      cov: () => cell("cov", signed(row.cov)),
      signal: () => tags,
    };
    return el("div", { role: "row", class: "row", "aria-rowindex": i + 2, vars: { top: `${i * height}px` } }, ...COLUMNS.map((c) => cells[c.key]()));
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

  /** The tree `by` places after this one in the list as it is shown; null at its ends. */
  neighbour(at, by) {
    const i = this.shown.findIndex((r) => r.at === at);
    return i < 0 ? (this.rows[at + by] ?? null) : (this.shown[i + by] ?? null);
  },
};
