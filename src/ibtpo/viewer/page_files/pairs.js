"use strict";
// Two sets side by side, such as two checkpoints: which problems changed, and the two trees of a problem with their
// differences marked.

const MOVED = 0.05; // a change of the confidence in a step that a card tells

const pairs = {
  several: facts.sets.length > 1,
  from: 0,
  to: facts.sets.length - 1,
  rows: [], // a row for each problem that both sets have a tree of, the largest change first

  build() {
    const choice = (name, key) => el("label", {}, `${name} `, el("select", { "aria-label": `${name} which set`, onchange: (event) => this.choose(key, Number(event.target.value)) },
      ...facts.sets.map((label, i) => el("option", { value: i, selected: i === this[key] }, label))));
    this.choice = el("div", { class: "choice", hidden: true }, choice("From", "from"), choice("to", "to"));
    if (this.several) this.match();
    return this.choice;
  },

  choose(key, set) {
    this[key] = set;
    this.match();
    list.use(CHANGES, list.filter);
    byId("greeting").firstElementChild.textContent = this.summary();
    app.remember();
  },

  /** Matches the trees of the two sets; of several trees of a problem, as a run has after an epoch, the latest. */
  match() {
    const latest = (set) => new Map(app.rows.filter((r) => r.set === set).map((r) => [r.id, r]));
    const [before, after] = [latest(this.from), latest(this.to)];
    const minus = (x, y) => (x === null || y === null ? null : x - y);
    this.rows = [];
    for (const [id, a] of before) {
      const b = after.get(id);
      if (!b) continue;
      this.rows.push({
        id, key: id, pair: [a, b], prompt: a.prompt, before: a.success, after: b.success, change: minus(b.success, a.success),
        own: minus(b.policy, a.policy), ibchange: minus(b.ib, a.ib), low: `${id}\n${a.prompt}`.toLowerCase(),
      });
    }
    const size = (r) => (r.change === null ? -1 : Math.abs(r.change));
    this.rows.sort((x, y) => size(y) - size(x) || size(y.own === null ? { change: null } : { change: y.own }) - size(x.own === null ? { change: null } : { change: x.own }));
    this.rows.forEach((row, at) => { row.at = at; });
  },

  summary() {
    const [a, b] = [facts.sets[this.from], facts.sets[this.to]];
    const known = this.rows.filter((r) => r.change !== null);
    if (!known.length) return `${a} and ${b} have no graded problem in common.`;
    const mean = (key) => plain((100 * known.reduce((sum, r) => sum + r[key], 0)) / known.length, 1);
    const of = (filter) => count(known.filter(CHANGES.filters[filter][1]).length);
    return `From ${a} to ${b}, over ${many(known.length, "problem")} in both: ${mean("before")} % → ${mean("after")} % of a tree's answers are right. ${of("fell")} fell, ${of("rose")} rose, ${of("same")} stayed; ${of("lost")} lost every right answer.`;
  },

  /** Reads the link's sets, where it names any. */
  route(asked) {
    const [from, to] = [facts.sets.indexOf(asked.from), facts.sets.indexOf(asked.to)];
    if ((from < 0 || from === this.from) && (to < 0 || to === this.to)) return;
    if (from >= 0) this.from = from;
    if (to >= 0) this.to = to;
    this.choice.querySelectorAll("select").forEach((s, i) => { s.value = i ? this.to : this.from; });
    this.match();
    if (list.kind === CHANGES) list.use(CHANGES, list.filter);
  },

  /** What a link says of the sets; nothing for the first and the last. */
  inLink() {
    return this.from === 0 && this.to === facts.sets.length - 1 ? "" : `&from=${encodeURIComponent(facts.sets[this.from])}&to=${encodeURIComponent(facts.sets[this.to])}`;
  },
};

/** For each step of two trees the same step of the other, or −1: what was sampled after the same steps with the same text. */
function twinsOf(a, b) {
  const [ab, ba] = [a, b].map((t) => new Array(t.parent.length).fill(-1));
  ab[0] = ba[0] = 0;
  for (const stack = [0]; stack.length; ) {
    const node = stack.pop();
    const left = [...b.children[ab[node]]];
    for (const child of a.children[node]) {
      const same = (c) => b.text[c] === a.text[child] && b.given.has(c) === a.given.has(child);
      let i = left.findIndex((c) => same(c) && String(b.tokens[c]) === String(a.tokens[child]));
      if (i < 0) i = left.findIndex(same);
      if (i < 0) continue;
      const [twin] = left.splice(i, 1);
      ab[child] = twin;
      ba[twin] = child;
      stack.push(child);
    }
  }
  return [ab, ba];
}

/** The steps after which the search branched. */
const branchPlaces = (t) => new Set(t.rollouts.filter(([, , round]) => round > 0).map(([at]) => at));

class Side extends Canvas {
  twins = [];
  places = new Set();
  least = 210; // the marks need room
  more = 14;

  /** place: 0 for the tree on the left, 1 for the one on the right. */
  constructor(place) {
    super("ab"[place], place ? "The tree after" : "The tree before");
    this.place = place;
    this.canvas.addEventListener("focusin", () => { pairView.active = this; });
  }

  get other() { return pairView.sides[1 - this.place]; }

  decorate(i, card) {
    const twin = this.twins[i];
    const marks = [];
    const mark = (kind, text, title) => marks.push(el("span", { class: `mark ${kind}`, title }, text));
    if (twin < 0) {
      const [kind, title] = this.place ? ["new", "the other tree has no such step after the same steps"] : ["gone", "the later tree has no such step after the same steps"];
      card.classList.add(kind);
      mark(kind, kind, title);
    } else if (i) {
      const [mine, theirs] = [this.t.eta2[i], this.other.t.eta2[twin]];
      const moved = mine === null || theirs === null ? 0 : this.place ? mine - theirs : theirs - mine;
      if (Math.abs(moved) >= MOVED) mark(moved > 0 ? "up" : "down", `π ${signed(moved, 2)}`, `confidence in this step ${plain(this.place ? theirs : mine)} → ${plain(this.place ? mine : theirs)}`);
    }
    if (this.places.has(i)) {
      const alone = twin < 0 || !this.other.places.has(twin);
      mark(alone ? "place alone" : "place", alone ? `${this.place ? "+" : "−"}branch` : "branch", alone ? "the search branched after this step in this tree alone" : "the search branched after this step in both trees");
    }
    card.classList.toggle("marked", marks.length > 0);
    if (marks.length) card.append(el("span", { class: "marks" }, ...marks));
  }

  /** Whether a step is one of the differences that the key d walks: the first of what is new or gone, or a step with another value. */
  differs(i) {
    const twin = this.twins[i];
    if (twin < 0) return this.twins[this.t.parent[i]] >= 0;
    if (!this.place) return false; // the right side tells of the steps that both have
    const [mine, theirs] = [this.t.eta2[i], this.other.t.eta2[twin]];
    return this.places.has(i) !== this.other.places.has(twin) || (mine !== null && theirs !== null && Math.abs(mine - theirs) >= MOVED);
  }

  picked(node, remember) { pairView.picked(this, node, remember); }
  enter() { pairView.panel.focus(); }
}

const pairView = {
  row: null,

  build() {
    this.sides = [new Side(0), new Side(1)];
    [this.active] = this.sides;
    this.title = el("h2", { dir: "auto" });
    this.facts = el("div", { class: "facts" });
    this.colours = colourChoice("pair-colour", "p_hat", (by) => this.colour(by));
    const button = (name, text, keys, act) => el("button", { type: "button", title: `${name} (${keys})`, "aria-label": name, onclick: act }, text);
    const controls = el("div", { class: "controls" },
      el("div", { class: "group" }, el("span", { class: "label" }, "Colour"), this.colours),
      el("div", { class: "group" }, button("Next difference", "Next difference", "d", () => this.nextDifference(1)), button("The same step on the other side", "Other side", "x", () => this.cross())),
      el("div", { class: "group zoom" },
        button("Smaller", "−", "-", () => this.scale(1 / 1.25)), button("Larger", "+", "+", () => this.scale(1.25)), button("Fit the whole trees", "Fit", "f", () => this.fit())));
    this.heads = this.sides.map(() => el("h3", { dir: "auto" }));
    const sides = el("div", { class: "sides" }, ...this.sides.map((side, i) => el("section", { class: "side", "aria-label": i ? "After" : "Before" }, this.heads[i], side.canvas)));
    this.panel = el("aside", { class: "panel both", "aria-label": "Step of both trees", tabIndex: -1 });
    byId("pair").append(el("div", { class: "about" }, this.title, this.facts), controls, sides, this.panel);
  },

  show(row, trees, place, node) {
    this.row = row;
    const [a, b] = trees;
    const twins = twinsOf(a, b);
    this.sides.forEach((side, i) => Object.assign(side, { t: trees[i], twins: twins[i], places: branchPlaces(trees[i]) }));
    this.title.textContent = visible(row.id) || "(no id)";
    this.facts.replaceChildren(...this.told(a, b, twins));
    row.pair.forEach((r, i) => this.heads[i].replaceChildren(facts.sets[r.set], el("small", {}, ` ${r.step === null ? "" : `step ${r.step}, `}${many(r.answers, "answer")}, ${r.success === null ? "none graded" : `${plain(100 * r.success, 0)} % right`} `),
      el("a", { href: app.link(r) }, "this tree alone")));
    const wanted = trees[place].parent[node] === undefined ? 0 : node;
    this.sides.forEach((side) => side.load(side.t, 0));
    this.active = this.sides[place];
    this.active.select(wanted, { focus: false, remember: false });
    this.sides.forEach((side) => side.open());
    this.active.card.get(wanted).focus({ preventScroll: true });
  },

  told(a, b, [ab, ba]) {
    const fact = (name, value, title) => el("span", { class: "fact", title }, `${name} `, el("b", {}, value));
    const { before, after, change } = this.row;
    const both = ab.filter((twin) => twin > 0).length;
    const [pa, pb] = [branchPlaces(a), branchPlaces(b)];
    const shared = [...pa].filter((i) => ab[i] >= 0 && pb.has(ab[i])).length;
    const moved = ab.filter((twin, i) => twin > 0 && a.eta2[i] !== null && b.eta2[twin] !== null && Math.abs(b.eta2[twin] - a.eta2[i]) >= MOVED).length;
    const out = [
      fact("right answers", `${plain(before)} → ${plain(after)} (${signed(change, 2)})`, "their share among the graded answers"),
      fact("steps", `${both} in both, ${count(a.parent.length - 1 - both)} gone, ${count(b.parent.length - 1 - both)} new`, "a step is in both if it has the same text after the same steps"),
      fact("branch places", `${shared} in both, ${pa.size - shared} gone, ${pb.size - shared} new`, "steps after which the search branched"),
      fact("confidence", `moved in ${moved} of ${many(both, "same step")}`, `by ${MOVED} or more`)];
    if (a.text[0] !== b.text[0]) out.push(el("span", { class: "verdict wrong" }, "the two prompts differ"));
    return out;
  },

  colour(by) {
    for (const input of this.colours.querySelectorAll("input")) input.checked = input.value === by;
    for (const side of this.sides) { side.by = by; side.paint(); }
  },

  scale(times) { for (const side of this.sides) side.scale(side.zoom * times); },
  fit() { for (const side of this.sides) side.fit(); },
  unfold() { for (const side of this.sides) side.unfold(); },

  /** After a step was selected on one side: the same step on the other, or what came before it there. */
  picked(side, node, remember) {
    if (this.following) return;
    this.active = side;
    let up = node;
    while (side.twins[up] < 0) up = side.t.parent[up];
    this.following = true;
    side.other.select(side.twins[up], { focus: false });
    this.following = false;
    this.showPanel(side, node);
    if (remember) app.remember();
  },

  cross() {
    const { other } = this.active;
    other.select(other.selected);
  },

  nextDifference(by) {
    const all = this.sides.flatMap((side) => side.order.filter((i) => side.differs(i)).map((i) => [side, i]));
    if (!all.length) return app.say("No step of the two trees differs.");
    const i = all.findIndex(([side, node]) => side === this.active && node === side.selected);
    const [side, node] = all[i < 0 ? (by > 0 ? 0 : all.length - 1) : (i + by + all.length) % all.length];
    side.select(node);
    app.say(`difference ${all.findIndex(([s, n]) => s === side && n === node) + 1} of ${count(all.length)}`);
  },

  showPanel(side, node) {
    const twin = side.twins[node];
    const nodes = side.place ? [twin, node] : [node, twin];
    const columns = this.sides.map((s, i) => (nodes[i] < 0 ? this.instead(s, side, node) : this.column(s, nodes[i], i)));
    this.panel.replaceChildren(...columns, twin >= 0 ? this.numbers(nodes) : "");
    this.panel.scrollTop = 0;
  },

  column(side, node, i) {
    const label = facts.sets[this.row.pair[i].set];
    const name = nameOf(side.t, node);
    return el("section", {},
      el("h3", {}, `${label}: ${name}`, node ? el("small", {}, ` ${depthWords(side.t, node)}`) : null),
      panel.answers(side.t, node) ?? "", node ? panel.read(side.t, node) : "", panel.text(visible(side.t.text[node].replace(/^\n+|\n+$/g, "")), `, ${label}`));
  },

  /** What a side without a step has in its place: the steps after the last one that both trees have. */
  instead(side, from, node) {
    let up = node;
    while (from.twins[up] < 0) up = from.t.parent[up];
    const there = side.t.children[from.twins[up]].slice(0, 6);
    const line = (i) => el("li", {}, el("button", { type: "button", class: "link", onclick: () => side.select(i) }, nameOf(side.t, i)),
      el("small", {}, ` p̂ ${plain(side.t.p_hat[i])} · π ${plain(side.t.eta2[i])}${side.twins[i] < 0 ? "" : " · in both"} `), el("span", { dir: "auto" }, excerpt(side.t, i, "").slice(0, 90)));
    return el("section", {}, el("h3", {}, `${facts.sets[this.row.pair[side.place].set]}: `, el("small", {}, side.place ? "this step is gone" : "this step was not there")),
      there.length ? el("p", {}, el("small", {}, `After ${nameOf(side.t, from.twins[up])}, the last one in both, it ${side.place ? "has" : "had"}:`)) : el("p", {}, el("small", {}, "The answer ended here.")), el("ul", { class: "there" }, ...there.map(line)));
  },

  /** The numbers of a step that both trees have. */
  numbers([i, j]) {
    const [a, b] = this.sides.map((s) => s.t);
    const rows = [["right answers p̂", "p_hat"], ["confidence π", "eta2"], ["IB-Score", "ib_score"], ["advantage", "advantage"], ["draws", "draws"]];
    const show = (key, v) => (key === "draws" ? count(v) : key === "p_hat" || key === "eta2" ? plain(v, 3) : signed(v));
    const row = ([name, key]) => {
      const [x, y] = [a[key][i], b[key][j]];
      if (x === null && y === null) return "";
      const change = x === null || y === null ? null : y - x;
      return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, show(key, x)), el("td", {}, show(key, y)), el("td", { class: change > 1e-9 ? "high" : change < -1e-9 ? "low" : "" }, signed(change, key === "draws" ? 0 : 3)));
    };
    return el("table", { class: "numbers" },
      el("thead", {}, el("tr", {}, el("td"), ...["before", "after", "change"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, ...rows.map(row)));
  },
};
