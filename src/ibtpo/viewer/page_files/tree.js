"use strict";
// One tree: cards in columns, left to right, with edges behind them; selection, collapsing, colours, growth, zoom.

const CARD = { width: 216, height: 84, across: 268, down: 98, margin: 28 };
const LOW = { height: 62, down: 74 }; // for trees whose steps fit into a line
const SVG = "http://www.w3.org/2000/svg";

const view = {
  t: null,
  row: null,
  selected: 0,
  collapsed: new Set(),
  by: "ib_score",
  round: null, // null: grown up
  zoom: 1,
  hits: [],
  timer: 0,

  build() {
    this.facts = el("div", { class: "facts" });
    this.title = el("h2", { dir: "auto" });
    this.colours = el("div", { class: "segments", role: "radiogroup", "aria-label": "Colour by" },
      ...Object.entries(COLOURS).map(([key, c]) =>
        el("label", {}, el("input", { type: "radio", name: "colour", value: key, checked: key === this.by, onchange: () => this.colour(key) }), c.name)));
    this.legend = el("div", { class: "legend" });
    const button = (name, text, keys, act) =>
      el("button", { type: "button", title: `${name}${keys ? ` (${keys})` : ""}`, "aria-label": name, onclick: act }, text);
    this.slider = el("input", { type: "range", min: 0, "aria-label": "Round of growth", oninput: () => { this.stop(); this.showRound(Number(this.slider.value)); } });
    this.playButton = button("Play the growth", "▶", "g", () => this.play());
    this.caption = el("p", { class: "caption", role: "status" });
    this.growth = el("div", { class: "growth", role: "group", "aria-label": "Growth" },
      button("One round back", "‹", "[", () => this.turn(-1)), this.playButton, button("One round on", "›", "]", () => this.turn(1)), this.slider);
    this.noGrowth = el("p", { class: "caption" }, "This tree does not say how it grew.");
    this.zoomText = el("button", { type: "button", title: "Original size (0)", "aria-label": "Original size", onclick: () => this.scale(1) });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.cards = el("div", { class: "cards", role: "tree", "aria-label": "Reasoning tree" });
    this.plane = el("div", { class: "plane" }, this.cards);
    this.plane.prepend(this.svg);
    this.sizer = el("div", { class: "sizer" }, this.plane);
    this.canvas = el("div", { class: "canvas", tabIndex: -1 }, this.sizer);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.cards.addEventListener("click", (event) => this.click(event));
    const controls = el("div", { class: "controls" },
      el("div", { class: "group" }, el("span", { class: "label" }, "Colour"), this.colours),
      el("div", { class: "group" }, el("span", { class: "label" }, "Growth"), this.growth),
      el("div", { class: "group zoom" },
        button("Smaller", "−", "-", () => this.scale(this.zoom / 1.25)), this.zoomText, button("Larger", "+", "+", () => this.scale(this.zoom * 1.25)),
        button("Fit the whole tree", "Fit", "f", () => this.fit()),
        button("Unfold all", "Unfold", "e", () => this.unfold()),
        button("Next wrong answer", "Next ✗", "w", () => this.nextWrong(1))));
    const left = el("div", { class: "left" }, el("div", { class: "about" }, this.title, this.facts), controls, this.caption, this.noGrowth, this.legend, this.canvas);
    byId("tree").append(left, panel.build());
  },

  show(row, t, node) {
    this.stop();
    Object.assign(this, { row, t, selected: t.parent[node] === undefined ? 0 : node, collapsed: new Set(), round: null, hits: [] });
    this.title.textContent = visible(t.id) || "(no id)";
    const fact = (name, value, title) => el("span", { class: "fact", title }, `${name} `, el("b", {}, value));
    this.facts.replaceChildren(
      ...[facts.run ? fact("step", row.step, "training step") : null, fact("answers", count(row.answers)), fact("avg reward", plain(row.reward)),
        fact("first answers right", plain(t.policy_rate), "mean correctness of the first answers: the policy's own rate; the search's branches bias that of all leaves"),
        fact("IB-Score", signed(row.ib), "mean over the steps that have children"), fact("Cov(η1, η2)", signed(row.cov), "over siblings"), fact("advantage", visible(t.method), t.about), ...tagsOf(row)].filter(Boolean));
    this.growth.parentNode.hidden = !t.grown || t.numbers.length < 2;
    this.noGrowth.hidden = t.grown;
    if (t.grown) this.slider.max = t.numbers.length - 1;
    const short = t.text.filter((s, i) => i && oneLine(s.slice(0, 200)).length <= 30).length > 0.9 * (t.text.length - 1);
    this.size = short ? { ...CARD, ...LOW } : CARD;
    this.plane.classList.toggle("short", short);
    this.lay();
    this.showRound(null);
    this.select(this.selected, { focus: false, centre: true });
  },

  // --- drawing -------------------------------------------------------------------------------------------------

  /** Places the cards anew: after opening a tree, folding or unfolding. */
  lay() {
    const t = this.t;
    const open = (i) => (this.collapsed.has(i) ? [] : t.children[i]);
    const root = d3.hierarchy(0, open);
    d3.tree().nodeSize([this.size.down, CARD.across]).separation(() => 1)(root);
    const nodes = root.descendants();
    let low = Infinity, high = -Infinity, deep = 0;
    for (const n of nodes) [low, high, deep] = [Math.min(low, n.x), Math.max(high, n.x), Math.max(deep, n.depth)];
    this.width = 2 * CARD.margin + deep * CARD.across + CARD.width;
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
  },

  makeCard(i) {
    const t = this.t;
    const place = this.at.get(i);
    const siblings = i ? t.children[t.parent[i]] : [0];
    const given = t.given.has(i);
    const top = el("span", { class: "line" }, el("span", { class: "number" }, i ? `${i}` : "Prompt"));
    if (given) top.append(el("span", { class: "by", title: "an observation: the environment wrote it, the model sampled none of it" }, "↩ given"));
    if (t.draws[i] > 1) top.append(el("span", { class: "draws", title: `${given ? "given" : "drawn"} ${t.draws[i]} times` }, `×${count(t.draws[i])}`));
    for (const v of summary(t.verdicts[i])) top.append(el("span", { class: `verdict ${v.kind}`, title: v.words }, `${v.sign} ${v.brief}${v.n > 1 ? ` ×${v.n}` : ""}`));
    top.append(el("span", { class: "value" }));
    const card = el("div", {
      class: `card${i ? "" : " root"}${given ? " given" : ""}${t.verdicts[i].length ? " has-verdict" : ""}`, role: "treeitem", id: `n${i}`, tabIndex: -1, "data-node": i,
      "aria-level": t.depth[i] + 1, "aria-posinset": siblings.indexOf(i) + 1, "aria-setsize": siblings.length, "aria-selected": "false",
      "data-sign": t.verdicts[i].map((v) => v.sign[0]).join("").slice(0, 4) || undefined,
      vars: { left: `${place.x}px`, top: `${place.y}px` },
    }, top, el("span", { class: "text", dir: "auto" }));
    if (t.children[i].length) {
      const folded = this.collapsed.has(i);
      card.setAttribute("aria-expanded", String(!folded));
      card.append(el("span", { class: `fold${folded ? "" : " open"}`, "aria-hidden": "true", title: "Fold or unfold (Space)" }, folded ? `+${count(below(t, i))}` : "−"));
    }
    return card;
  },

  makeEdge(i) {
    const [a, b] = [this.at.get(this.t.parent[i]), this.at.get(i)];
    const [x0, y0, x1, y1] = [a.x + CARD.width, a.y + this.size.height / 2, b.x, b.y + this.size.height / 2];
    const path = document.createElementNS(SVG, "path");
    const half = (x0 + x1) / 2;
    path.setAttribute("d", `M${x0},${y0}C${half},${y0} ${half},${y1} ${x1},${y1}`);
    path.style.setProperty("--w", `${Math.min(14, 1.2 + 1.6 * Math.log2(this.t.draws[i])).toFixed(2)}px`);
    return path;
  },

  /** Colours and texts of the cards. */
  paint() {
    const t = this.t;
    const wanted = app.treeText();
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
      card.querySelector(".text").replaceChildren(...marked(excerpt(t, i, hits.has(i) ? wanted : ""), hits.has(i) ? wanted : ""));
    }
    this.markPath();
    this.drawLegend();
    this.drawRound();
  },

  /** Marks the way from the prompt to the selected step, and that alone. */
  markPath() {
    const mark = (on) => this.path.forEach((i) => [this.card.get(i), this.edge.get(i)].forEach((e) => e?.classList.toggle("on-path", on)));
    mark(false);
    this.path = pathTo(this.t, this.selected);
    mark(true);
  },

  drawLegend() {
    const c = COLOURS[this.by];
    const [low, middle, high] = facts.scale[this.by];
    const ends = this.by === "p_hat" ? [plain(low), plain(middle), plain(high)] : [`≤ ${signed(low, 2)}`, "0", `≥ ${signed(high, 2)}`];
    const verdicts = [["right", "✓", "right"], ["wrong", "✗", "wrong"], ["cut", "✂", "cut short"], ["error", "⚠", "verifier error"]];
    const given = this.t.given.size ? el("span", { class: "by", title: "observations, which the environment wrote: they have a value, and no probability or advantage" }, "↩ given by the environment") : "";
    const what = this.by === "advantage" ? el("span", {}, `advantage of ${visible(this.t.method)}: ${this.t.about}`) : "";
    this.legend.replaceChildren(
      what,
      el("span", { class: "n", title: `${c.name}; the same scale in all trees${this.by === "p_hat" ? "" : ", by square roots, so that small scores can be told apart"}` }, `▼ ${ends[0]}`, el("span", { class: "ramp down" }), ends[1], el("span", { class: "ramp up" }), `${ends[2]} ▲`),
      el("span", { title: c.none }, el("span", { class: "swatch hatched" }), `${NONE} none`),
      el("span", {}, el("span", { class: "swatch edges" }), "line width: draws"),
      given,
      ...verdicts.map(([kind, sign, words]) => el("span", { class: `verdict ${kind}` }, `${sign} ${words}`)));
  },

  colour(by) {
    this.by = by;
    for (const input of this.colours.querySelectorAll("input")) input.checked = input.value === by;
    this.paint();
  },

  // --- selection -----------------------------------------------------------------------------------------------

  select(node, { focus = true, centre = false, remember = true } = {}) {
    for (const up of pathTo(this.t, node).slice(0, -1)) if (this.collapsed.has(up)) this.collapsed.delete(up), (this.stale = true);
    if (this.stale) this.stale = this.lay();
    if (this.round !== null && this.t.born[node] > this.t.numbers[this.round]) this.showRound(null); // it has not grown yet
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
    panel.show(this.t, node);
    if (remember) app.remember();
  },

  reveal(node, centre) {
    const { x, y } = this.at.get(node);
    const z = this.zoom;
    const c = this.canvas;
    const [left, top, right, bottom] = [x * z - 40, y * z - 30, (x + CARD.width) * z + 40, (y + this.size.height) * z + 30];
    if (centre) c.scrollTo(node ? (left + right - c.clientWidth) / 2 : 0, (top + bottom - c.clientHeight) / 2);
    else {
      if (left < c.scrollLeft) c.scrollLeft = left;
      else if (right > c.scrollLeft + c.clientWidth) c.scrollLeft = Math.min(left, right - c.clientWidth);
      if (top < c.scrollTop) c.scrollTop = top;
      else if (bottom > c.scrollTop + c.clientHeight) c.scrollTop = bottom - c.clientHeight;
    }
  },

  click(event) {
    const card = event.target.closest(".card");
    if (!card || String(getSelection())) return; // text is being selected
    const node = Number(card.dataset.node);
    if (event.target.closest(".fold")) this.fold(node);
    else this.select(node);
  },

  fold(node) {
    if (!this.t.children[node].length) return;
    if (!this.collapsed.delete(node)) this.collapsed.add(node);
    this.lay();
    this.select(node);
  },

  unfold() {
    this.collapsed.clear();
    this.lay();
    this.select(this.selected);
  },

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
      Enter: () => panel.focus(),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    const node = to();
    if (typeof node === "number") this.select(node);
  },

  /** The next card in the same column. */
  beside(i, by) {
    const column = this.order.filter((n) => this.t.depth[n] === this.t.depth[i] && this.alive(n));
    return column[column.indexOf(i) + by];
  },

  nextWrong(by) {
    const wrong = leavesInOrder(this.t).filter((n) => this.t.verdicts[n].some((v) => v.kind === "wrong" || v.kind === "cut"));
    if (!wrong.length) return app.say("No answer of this tree is wrong.");
    const i = wrong.indexOf(this.selected);
    this.select(i < 0 ? wrong[by > 0 ? 0 : wrong.length - 1] : wrong[(i + by + wrong.length) % wrong.length]);
  },

  // --- growth --------------------------------------------------------------------------------------------------

  alive(node) {
    return this.round === null || this.t.born[node] <= this.t.numbers[this.round];
  },

  /** round: a place in the list of rounds; null: all of it. */
  showRound(round) {
    const last = this.t.grown ? this.t.numbers.length - 1 : 0;
    this.round = !this.t.grown || round === null ? null : Math.max(0, Math.min(last, round));
    this.slider.value = this.round ?? last;
    this.drawRound();
    if (this.round === null) return;
    if (!this.alive(this.selected)) this.select(this.t.rounds[this.t.numbers[this.round]][0].at, { focus: false });
    const fresh = this.order.find((n) => n && this.t.born[n] === this.t.numbers[this.round]);
    if (fresh !== undefined) this.reveal(fresh, false);
  },

  drawRound() {
    const t = this.t;
    const number = this.round === null ? null : t.numbers[this.round];
    const started = new Set(number === null ? [] : t.rounds[number].map((r) => r.at));
    for (const [i, card] of this.card) {
      const alive = this.alive(i);
      const fresh = number !== null && i > 0 && t.born[i] === number;
      card.classList.toggle("unborn", !alive);
      card.classList.toggle("fresh", fresh);
      card.classList.toggle("started", started.has(i) && number > 0);
      this.edge.get(i)?.classList.toggle("unborn", !alive);
      this.edge.get(i)?.classList.toggle("fresh", fresh);
    }
    this.slider.setAttribute("aria-valuetext", number === null ? "all rounds" : `round ${number}`);
    this.caption.replaceChildren(...(t.grown ? this.story(number) : []));
  },

  /** What happened in a round: where it branched, what the rule saw there, what came of it. */
  story(number) {
    const t = this.t;
    const last = t.numbers.at(-1);
    if (number === null) {
      const branched = t.numbers.filter((n) => n > 0).length;
      return [branched ? `First ${many(t.rounds[t.numbers[0]].length, "answer")}, then ${many(branched, "round")} of branches: press ▶ to watch where, and why.` : "All answers start at the prompt."];
    };
    const out = [el("b", {}, `Round ${number} of ${last}. `)];
    const places = new Map();
    for (const r of t.rounds[number]) places.set(r.at, [...(places.get(r.at) ?? []), r]);
    for (const [at, rs] of places) {
      const words = summary(rs.map((r) => verdict(t, r.answer))).map((v) => `${v.n} ${v.words.replace(/, (.*)/, " ($1)")}`).join(", ");
      const tokens = rs.reduce((sum, r) => sum + r.tokens, 0);
      const score = rs[0].score;
      const step = el("button", { type: "button", class: "link", onclick: () => this.select(at) }, nameOf(t, at));
      if (number === 0) out.push(`${many(rs.length, "answer")} from `, step);
      else out.push(`${rs.length > 1 ? `${rs.length} branches` : "Branched"} after `, step, reason(t.made.branching, score, places.size > 1));
      out.push(`; ${many(tokens, "new token")}: ${words}. `);
    }
    return out;
  },

  turn(by) {
    if (!this.t.grown) return;
    this.stop();
    const last = this.t.numbers.length - 1;
    const now = this.round ?? (by > 0 ? -1 : last + 1);
    const next = now + by;
    this.showRound(next > last ? null : next);
  },

  play() {
    if (!this.t.grown) return;
    if (this.timer) return this.stop();
    this.showRound(this.round === null || this.round === this.t.numbers.length - 1 ? 0 : this.round + 1);
    this.timer = setInterval(() => {
      if (this.round === null || this.round >= this.t.numbers.length - 1) this.stop();
      else this.showRound(this.round + 1);
    }, 1100);
    this.sayPlaying(true);
  },

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.sayPlaying(false);
  },

  sayPlaying(on) {
    this.playButton.textContent = on ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-label", on ? "Pause" : "Play the growth");
  },

  // --- zoom ----------------------------------------------------------------------------------------------------

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
    this.zoomText.textContent = `${Math.round(100 * this.zoom)} %`;
    if (this.zoom !== before) c.scrollTo(middle[0] * this.zoom - c.clientWidth / 2, middle[1] * this.zoom - c.clientHeight / 2);
  },

  fit() {
    this.scale(Math.min(1, this.canvas.clientWidth / this.width, this.canvas.clientHeight / this.height));
  },
};

/** Why a rule branched at a place: what made it the best one then. several: places in the same round. */
function reason(rule, score, several) {
  const most = several ? "among the highest" : "the highest";
  if (rule === "random" || (score === null && ["ib", "entropy", "fixed_width"].includes(rule))) return ", chosen at random";
  if (score === null) return "";
  if (rule === "ib") return `: its IB-Score, ${signed(score)}, was ${most} of the tree then`;
  if (rule === "entropy") return `: a token there surprised the model, its −log π of ${plain(score)} was ${most} of the tree then`;
  if (rule === "fixed_width") return ": of the depths that had room for another path the nearest to the prompt";
  return `: ${rule ? `the rule “${visible(rule)}”` : "the branching rule"} saw ${signed(score)} there`;
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
