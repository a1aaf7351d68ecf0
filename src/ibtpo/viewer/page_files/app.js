"use strict";
// What holds the page together: links (the part after #), search, keys, light and dark, help, paper.

const app = {
  rows: [],
  keys: new Map(),
  words: null, // token id -> text, where a tokenizer was at hand
  text: "", // what is searched for, in lower case
  searching: 0, // counts searches: an older one stops
  reading: false, // the steps of all trees are being searched

  async start() {
    this.rows = await readIndex();
    this.words = await unpack(byId("words"));
    for (const row of this.rows) this.keys.set(row.key, row);
    view.build();
    pairView.build();
    reader.build();
    const elsewhere = /[#&](tree|pair)=/.test(location.hash);
    byId("list").hidden = elsewhere;
    list.build();
    byId("help").append(...help());
    this.listen();
    await this.route();
    byId("loading").hidden = true;
  },

  /** Shows one of the three: the list, a tree, two trees. */
  turnTo(id) {
    for (const one of ["list", "tree", "pair"]) byId(one).hidden = one !== id;
    byId("greeting").hidden = id !== "list";
    byId("walk").hidden = id === "list";
    byId("scope").hidden = id !== "tree";
    byId("loading").hidden = true;
  },

  /** The page of a tree, or of two, that is shown; null for the list. */
  get shown() { return !byId("tree").hidden ? view : !byId("pair").hidden ? pairView : null; },

  listen() {
    addEventListener("hashchange", () => this.route());
    addEventListener("keydown", (event) => this.key(event));
    const search = byId("search");
    search.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.search(), 160); });
    search.addEventListener("keydown", (event) => this.searchKey(event));
    byId("scope").addEventListener("change", () => this.search());
    byId("previous").addEventListener("click", () => this.walk(-1));
    byId("next").addEventListener("click", () => this.walk(1));
    byId("theme").addEventListener("click", () => this.theme());
    byId("help-button").addEventListener("click", () => this.help());
    byId("help").addEventListener("click", (event) => event.target === byId("help") && byId("help").close());
    for (const id of ["home", "to-list"]) byId(id).addEventListener("click", (event) => { event.preventDefault(); this.home(); });
    addEventListener("beforeprint", () => this.paper());
    matchMedia("print").addEventListener("change", (event) => event.matches && this.paper());
  },

  // --- links ---------------------------------------------------------------------------------------------------

  link(row, node, place) {
    const where = node === undefined ? "" : `&node=${node}${place ? "&side=after" : ""}`;
    return row.pair ? `#pair=${encodeURIComponent(row.key)}${pairs.inLink()}${where}` : `#tree=${encodeURIComponent(row.key)}${where}`;
  },

  listLink() {
    const first = Object.keys((pairs.several ? CHANGES : TREES).filters)[0];
    const sets = list.kind === CHANGES ? pairs.inLink() : "";
    return list.filter === first && !sets ? "#" : `#filter=${list.filter}${sets}`;
  },

  /** Shows what the link asks for. */
  async route() {
    const asked = {};
    for (const part of location.hash.slice(1).split("&")) {
      const [key, ...value] = part.split("=");
      try { asked[key] = decodeURIComponent(value.join("=")); } catch { asked[key] = value.join("="); }
    }
    if (pairs.several) pairs.route(asked);
    const node = /^\d+$/.test(asked.node ?? "") ? Number(asked.node) : 0;
    if (asked.pair !== undefined) {
      const row = pairs.rows.find((r) => r.key === asked.pair);
      if (row) return this.openPair(row, asked.side === "after" ? 1 : 0, node);
      this.showList();
      return this.say(`No problem here that both have is named “${visible(asked.pair)}”.`);
    }
    if (asked.tree === undefined) {
      this.showList();
      const kind = kindWith(asked.filter) ?? (pairs.several ? CHANGES : TREES);
      const filter = Object.hasOwn(kind.filters, asked.filter) ? asked.filter : Object.keys(kind.filters)[0];
      if (kind === CHANGES && !pairs.several) return;
      if (kind !== list.kind) list.use(kind, filter);
      else if (filter !== list.filter) { list.filter = filter; list.apply(); }
      return;
    }
    const row = this.keys.get(asked.tree);
    if (!row) {
      this.showList();
      return this.say(`No tree here is named “${visible(asked.tree)}”.`);
    }
    if (view.row === row && !byId("tree").hidden) return node !== view.selected && node < view.t.parent.length ? view.select(node) : undefined;
    await this.open(row, node);
  },

  async openPair(row, place, node) {
    if (pairView.row === row && !byId("pair").hidden) {
      const side = pairView.sides[place];
      return node < side.t.parent.length && (side !== pairView.active || node !== side.selected) ? side.select(node) : undefined;
    }
    const wanted = (this.wanted = row);
    const trees = await Promise.all(row.pair.map((r) => readTree(r.at)));
    if (this.wanted !== wanted) return; // meanwhile another was asked for
    view.stop();
    this.turnTo("pair");
    this.sayPlace(row, pairs.rows);
    byId("search").placeholder = "Search all trees  /";
    document.title = `${visible(row.id)} · ${this.title}`;
    pairView.show(row, trees, place, node);
    this.sayFound();
  },

  /** Where a row is in the list that is being walked. */
  sayPlace(row, all) {
    const place = list.shown.indexOf(row);
    const [nth, of] = place < 0 ? [row.at, all] : [place, list.shown];
    byId("place").textContent = `${count(nth + 1)} of ${count(of.length)}${of.length < all.length ? " shown" : ""}`;
    byId("previous").disabled = !list.neighbour(row, -1);
    byId("next").disabled = !list.neighbour(row, 1);
    byId("to-list").textContent = row.pair ? "All problems" : "All trees";
  },

  async open(row, node) {
    const wanted = (this.wanted = row);
    const t = await readTree(row.at);
    if (this.wanted !== wanted) return; // meanwhile another was asked for
    this.turnTo("tree");
    this.sayPlace(row, this.rows);
    byId("search").placeholder = "Search this tree  /";
    document.title = `${visible(row.id)} · ${this.title}`;
    view.show(row, t, node);
    if (this.text) this.searchTree();
    else this.sayFound();
    view.card.get(view.selected)?.focus({ preventScroll: true });
  },

  showList() {
    view.stop();
    this.wanted = null;
    const was = this.shown?.row ?? null;
    this.turnTo("list");
    byId("search").placeholder = "Search all trees  /";
    if (this.text !== list.text) this.text = byId("search").value = list.text; // the tree's own search stays there
    document.title = this.title;
    const i = was ? list.shown.indexOf(was) : -1;
    list.draw(true);
    if (i >= 0) list.focus(i);
    this.sayFound();
  },

  home() {
    location.hash = this.listLink();
    if (this.shown) this.route();
  },

  walk(by) {
    const row = this.shown && list.neighbour(this.shown.row, by);
    if (row) location.hash = this.link(row);
  },

  /** Keeps the address in step with what is shown, without a new entry in the history. */
  remember() {
    const { shown } = this;
    const side = shown === pairView ? pairView.active : shown;
    history.replaceState(null, "", shown ? this.link(shown.row, side.selected, side.place) : this.listLink());
  },

  // --- search --------------------------------------------------------------------------------------------------

  inTree: () => !byId("tree").hidden && byId("scope").value === "tree",
  treeText() { return byId("tree").hidden ? "" : this.text; },

  search() {
    this.text = byId("search").value.trim().toLowerCase();
    if (this.inTree()) return this.searchTree(true);
    list.text = this.text;
    list.hits = null;
    if (this.shown) {
      byId("scope").value = "tree";
      location.hash = this.listLink();
      this.showList();
      byId("search").focus();
    }
    this.reading = this.text.length > 1;
    list.apply();
    this.searchAll();
  },

  searchTree(go = false) {
    const t = view.t;
    const digits = /^#?(\d+)$/.exec(this.text);
    view.hits = !this.text ? [] : view.order.length ? depthFirst(t).filter((i) => t.text[i].toLowerCase().includes(this.text) || (digits && Number(digits[1]) === i && i > 0)) : [];
    view.paint();
    if (go && view.hits.length && !view.hits.includes(view.selected)) view.select(view.hits[0], { focus: false });
    else panel.show(t, view.selected);
    this.sayFound();
  },

  /** Looks into the steps of all trees, a few at a time, so that the page stays at hand. */
  async searchAll() {
    const turn = ++this.searching;
    const text = list.text;
    if (text.length < 2) return this.sayFound();
    const hits = (list.hits = new Set());
    let told = performance.now(), known = 0;
    for (let at = 0; at < this.rows.length; at += 16) {
      const some = this.rows.slice(at, at + 16);
      await Promise.all(some.map(async (row) => {
        if (row.low.includes(text)) return;
        const t = await readTree(row.at, false);
        if (t.text.some((s) => s.toLowerCase().includes(text)) || t.answer?.toLowerCase().includes(text)) hits.add(row.at);
      }));
      if (turn !== this.searching) return;
      if (performance.now() - told < 400) continue;
      told = performance.now();
      if (hits.size > known) list.apply(true); // found so far
      known = hits.size;
      if (!this.shown) byId("found").textContent = `${count(Math.min(at + 16, this.rows.length))} of ${count(this.rows.length)} read…`;
    }
    this.reading = false;
    list.apply(true);
  },

  searchKey(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      if (byId("search").value) this.clearSearch();
      else byId("search").blur();
      return;
    }
    if (event.key === "ArrowDown" && !this.inTree()) { event.preventDefault(); list.focus(0); }
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (this.inTree()) {
      if (byId("search").value.trim().toLowerCase() !== this.text) this.search();
      else this.nextHit(event.shiftKey ? -1 : 1);
    } else if (list.shown.length) list.focus(0);
  },

  nextHit(by) {
    const hits = view.hits;
    if (!hits.length) return;
    const i = hits.indexOf(view.selected);
    view.select(hits[i < 0 ? 0 : (i + by + hits.length) % hits.length], { focus: false });
    this.sayFound();
  },

  clearSearch() {
    byId("search").value = "";
    this.searching++;
    this.reading = false;
    this.text = list.text = "";
    list.hits = null;
    list.apply();
    if (!byId("tree").hidden) this.searchTree();
  },

  sayFound() {
    const hits = view.hits;
    let text = "";
    if (!byId("tree").hidden && this.text) text = hits.length ? `${Math.max(0, hits.indexOf(view.selected)) + 1} of ${many(hits.length, "step")}` : "no step";
    else if (!this.shown) text = list.shown.length === list.rows.length ? many(list.rows.length, list.kind.row) : `${count(list.shown.length)} of ${many(list.rows.length, list.kind.row)}`;
    byId("found").textContent = text;
  },

  say(text) { byId("found").textContent = text; },

  // --- keys ----------------------------------------------------------------------------------------------------

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || byId("reader").open) return;
    if (event.target.closest("input:not([type=range]):not([type=radio]), select, textarea")) return;
    const { shown } = this;
    const side = shown === pairView ? pairView.active : shown;
    const always = { "/": () => { byId("search").focus(); byId("search").select(); }, "?": () => this.help(), t: () => this.theme() };
    const colours = Object.keys(COLOURS);
    const there = {
      n: () => this.walk(1), p: () => this.walk(-1), i: () => this.home(), Escape: () => this.home(), e: () => shown.unfold(), f: () => shown.fit(),
      c: () => shown.colour(colours[(colours.indexOf(side.by) + 1) % colours.length]), r: () => side.selected && reader.open(side.t, side.selected),
      ArrowRight: () => side.select(side.selected), ArrowDown: () => side.select(side.selected),
    };
    const alone = {
      w: () => view.nextWrong(1), W: () => view.nextWrong(-1), g: () => view.play(), "[": () => view.turn(-1), "]": () => view.turn(1),
      0: () => view.scale(1), "+": () => view.scale(view.zoom * 1.25), "=": () => view.scale(view.zoom * 1.25), "-": () => view.scale(view.zoom / 1.25),
    };
    const beside = {
      d: () => pairView.nextDifference(1), D: () => pairView.nextDifference(-1), x: () => pairView.cross(),
      "+": () => pairView.scale(1.25), "=": () => pairView.scale(1.25), "-": () => pairView.scale(1 / 1.25),
    };
    const own = !shown ? {} : { ...there, ...(shown === view ? alone : beside) };
    const fixed = event.target.closest("input, .panel") && event.key.startsWith("Arrow"); // a slider, a text that scrolls
    const act = always[event.key] ?? (shown && !fixed ? own[event.key] : !shown && event.key === "ArrowDown" ? () => list.focus(list.active) : null);
    if (!act || event.defaultPrevented) return;
    event.preventDefault();
    act();
  },

  theme() {
    const dark = document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  },

  help() {
    const box = byId("help");
    if (!box.open) box.showModal();
  },

  // --- paper ---------------------------------------------------------------------------------------------------

  /** What is printed: the tree as nested lists with all its text, or the list as a plain table. */
  paper() {
    const { shown } = this;
    const what = byId("reader").open ? paperAnswer() : shown === view ? paperTree(view.t, view.row) : shown ? pairView.sides.flatMap((s, i) => paperTree(s.t, shown.row.pair[i])) : paperList();
    byId("paper").replaceChildren(...what);
  },
};

function depthFirst(t) {
  const out = [];
  for (const stack = [0]; stack.length; ) {
    const node = stack.pop();
    out.push(node);
    stack.push(...[...t.children[node]].reverse());
  }
  return out;
}

function paperTree(t, row) {
  const step = (i) => {
    const facts = [t.given.has(i) ? "given" : "", `p̂ ${plain(t.p_hat[i])}`, t.children[i].length ? `IB-Score ${signed(t.ib_score[i])}` : "", i && !t.given.has(i) ? `advantage ${signed(t.advantage[i])}` : "", t.draws[i] > 1 ? `×${t.draws[i]}` : "", ...t.verdicts[i].map((v) => `${v.sign} ${v.words}`)];
    return el("li", {}, el("small", {}, `${i}  ${facts.filter(Boolean).join(" · ")}`), el("div", { class: "step-text", dir: "auto" }, visible(t.text[i].trim())));
  };
  const top = el("ol", { class: "chain" });
  for (const stack = t.children[0].map((c) => [c, top]).reverse(); stack.length; ) {
    const [node, chain] = stack.pop();
    const single = node && t.children[t.parent[node]].length === 1;
    const into = single ? chain : chain.appendChild(el("li", { class: "branch" })).appendChild(el("ol", { class: "chain" }));
    into.append(step(node));
    stack.push(...t.children[node].map((c) => [c, into]).reverse());
  }
  const of = facts.sets.length > 1 ? ` · ${facts.sets[row.set]}` : "";
  return [el("h1", {}, visible(row.id) + of), el("p", {}, `${many(row.answers, "answer")}, average reward ${plain(row.reward)}, IB-Score ${signed(row.ib)}, Cov(η1, η2) ${signed(row.cov)}, advantage of ${visible(t.method)}: ${t.about}`),
    el("div", { class: "step-text", dir: "auto" }, visible(t.text[0])), t.answer === null ? "" : el("p", {}, "Reference answer: ", el("bdi", {}, visible(t.answer))), top];
}

function paperList() {
  const most = 1000;
  const columns = list.kind.columns.filter((c) => !c.fixed);
  const cell = { reward: plain, before: plain, after: plain, ib: signed, cov: signed, change: signed, own: signed, ibchange: signed };
  const rows = list.shown.slice(0, most).map((r) => el("tr", {}, ...columns.map((c) => el("td", { class: c.text ? "" : "n" }, cell[c.key] ? cell[c.key](r[c.key]) : c.key === "from" ? facts.sets[r.set] : visible(String(r[c.key] ?? ""))))));
  const left = list.shown.length - rows.length;
  const greeting = [...byId("greeting").children].map((line) => line.cloneNode(true));
  return [el("h1", {}, app.title), ...greeting, el("p", {}, byId("found").textContent), el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((c) => el("th", {}, c.name)))), el("tbody", {}, ...rows)),
    left ? el("p", {}, `and ${many(left, list.kind.row)} more`) : ""];
}

function paperAnswer() {
  const { t } = reader;
  return [el("h1", {}, `${visible(t.id)} · ${reader.title.textContent}`), el("div", { class: "step-text", dir: "auto" }, visible(t.text[0])), reader.body.cloneNode(true)];
}

function help() {
  const keys = [
    ["← → ↑ ↓", "walk the tree"], ["Space", "fold or unfold a step"], ["Enter", "to the step's details"], ["r", "read the whole answer; in it 1 2 3: rendered, raw, tokens; s: step borders; p: probabilities"], ["n  p", "next, previous tree"], ["w  W", "next, previous wrong answer"],
    ["/", "search; Enter and Shift+Enter walk the hits"], ["c", "colour by the next score"], ["g", "play the growth"], ["[  ]", "one round back, on"], ["+  −  0  f", "zoom, original size, fit"],
    ["e", "unfold everything"], ["d  D", "side by side: next, previous difference"], ["x", "side by side: the same step on the other side"], ["t", "light or dark"], ["i  Esc", "back to the list"], ["?", "this help"]];
  const words = [
    ["p̂", "share of right answers among those that pass through the step"],
    ["IB-Score", "how much the steps after this one tell about the answer, weighted by the model's confidence; branches start where it is highest"],
    ["Advantage", "what training credits the step with, by the method named above the tree. IB-TPO: A_GL (against the whole tree) + λ·A_IB (against its siblings). Methods that value whole answers: the mean over those through the step. With the weight of shared tokens, and divided by the scale of the batch where the run stored it"],
    ["↩", "an observation: the environment wrote it, such as a tool's result. It has a value; the model did not choose it, so it has no probability and no advantage, and branches start after it, never before"],
    ["Effective", "the answers of a tree differ in correctness"], ["Rescued", "they differ only thanks to a branch"],
    ["new, gone", "side by side: steps that only the later, or only the earlier, tree has after the same steps"],
    ["– none", "not defined, which is not zero"]];
  const pairs = (rows, tag) => el("dl", {}, ...rows.flatMap(([a, b]) => [el("dt", {}, el(tag, {}, a)), el("dd", {}, b)]));
  return [el("form", { method: "dialog" }, el("h2", { id: "help-title" }, "Keys"), el("button", { "aria-label": "Close" }, "✕")), pairs(keys, "kbd"), el("h2", {}, "Words"), pairs(words, "b")];
}

app.title = document.title;
app.start().catch((error) => {
  byId("loading").hidden = true;
  byId("list").hidden = false;
  byId("list").replaceChildren(el("p", { class: "empty" }, String(error.message ?? error)));
});
