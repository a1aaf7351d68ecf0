"use strict";
// The page of one tree: its facts and controls, the canvas, and how the tree grew.

class TreeView extends Canvas {
  row = null;
  round = null; // null: grown up
  timer = 0;

  build() {
    this.facts = el("div", { class: "facts" });
    this.title = el("h2", { dir: "auto" });
    this.colours = colourChoice("colour", this.by, (by) => this.colour(by));
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
  }

  show(row, t, node) {
    this.stop();
    this.row = row;
    this.round = null;
    this.title.textContent = visible(t.id) || "(no id)";
    const fact = (name, value, title) => el("span", { class: "fact", title }, `${name} `, el("b", {}, value));
    this.facts.replaceChildren(
      ...[facts.sets.length > 1 ? fact("of", facts.sets[row.set], "checkpoint, run or file") : null, row.step === null ? null : fact("step", row.step, "training step"), fact("answers", count(row.answers)), fact("avg reward", plain(row.reward)),
        fact("first answers right", plain(t.policy_rate), "mean correctness of the first answers: the policy's own rate; the search's branches bias that of all leaves"),
        fact("IB-Score", signed(row.ib), "mean over the steps that have children"), fact("Cov(η1, η2)", signed(row.cov), "over siblings"), fact("advantage", visible(t.method), t.about), ...tagsOf(row)].filter(Boolean));
    this.growth.parentNode.hidden = !t.grown || t.numbers.length < 2;
    this.noGrowth.hidden = t.grown;
    if (t.grown) this.slider.max = t.numbers.length - 1;
    this.load(t, node);
    this.showRound(null);
    this.select(this.selected, { focus: false });
    this.open();
  }

  painted() {
    this.drawLegend();
    this.drawRound();
  }

  picked(node, remember) {
    panel.show(this.t, node);
    if (remember) app.remember();
  }

  enter() { panel.focus(); }

  select(node, options) {
    if (this.round !== null && this.t.born[node] > this.t.numbers[this.round]) this.showRound(null); // it has not grown yet
    super.select(node, options);
  }

  drawLegend() {
    const c = COLOURS[this.by];
    const [low, middle, high] = facts.scale[this.by];
    const ends = this.by === "p_hat" ? [plain(low), plain(middle), plain(high)] : [`≤ ${signed(low, 2)}`, middle ? signed(middle, 2) : "0", `≥ ${signed(high, 2)}`];
    const verdicts = [["right", "✓", "right"], ["wrong", "✗", "wrong"], ["cut", "✂", "cut short"], ["error", "⚠", "verifier error"]];
    const given = this.t.given.size ? el("span", { class: "by", title: "observations, which the environment wrote: they have a value, and no probability or advantage" }, "↩ given by the environment") : "";
    const what = this.by === "advantage" ? el("span", {}, `advantage of ${visible(this.t.method)}: ${this.t.about}`) : "";
    this.legend.replaceChildren(
      what,
      el("span", { class: "n", title: `${c.name}; the same scale in all trees${COLOURS[this.by].scale}` }, `▼ ${ends[0]}`, el("span", { class: "ramp down" }), ends[1], el("span", { class: "ramp up" }), `${ends[2]} ▲`),
      el("span", { title: c.none }, el("span", { class: "swatch hatched" }), `${NONE} none`),
      el("span", {}, el("span", { class: "swatch edges" }), "line width: draws"),
      given,
      ...verdicts.map(([kind, sign, words]) => el("span", { class: `verdict ${kind}` }, `${sign} ${words}`)));
  }

  colour(by) {
    this.by = by;
    for (const input of this.colours.querySelectorAll("input")) input.checked = input.value === by;
    this.paint();
  }

  nextWrong(by) {
    const wrong = leavesInOrder(this.t).filter((n) => this.t.verdicts[n].some((v) => v.kind === "wrong" || v.kind === "cut"));
    if (!wrong.length) return app.say("No answer of this tree is wrong.");
    const i = wrong.indexOf(this.selected);
    this.select(i < 0 ? wrong[by > 0 ? 0 : wrong.length - 1] : wrong[(i + by + wrong.length) % wrong.length]);
  }

  // --- growth --------------------------------------------------------------------------------------------------

  alive(node) {
    return this.round === null || this.t.born[node] <= this.t.numbers[this.round];
  }

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
  }

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
  }

  /** What happened in a round: where it branched, what the rule saw there, what came of it. */
  story(number) {
    const t = this.t;
    const last = t.numbers.at(-1);
    if (number === null) {
      const branched = t.numbers.filter((n) => n > 0).length;
      return [branched ? `First ${many(t.rounds[t.numbers[0]].length, "answer")}, then ${many(branched, "round")} of branches: press ▶ to watch where, and why.` : "All answers start at the prompt."];
    }
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
  }

  turn(by) {
    if (!this.t.grown) return;
    this.stop();
    const last = this.t.numbers.length - 1;
    const now = this.round ?? (by > 0 ? -1 : last + 1);
    const next = now + by;
    this.showRound(next > last ? null : next);
  }

  play() {
    if (!this.t.grown) return;
    if (this.timer) return this.stop();
    this.showRound(this.round === null || this.round === this.t.numbers.length - 1 ? 0 : this.round + 1);
    this.timer = setInterval(() => {
      if (this.round === null || this.round >= this.t.numbers.length - 1) this.stop();
      else this.showRound(this.round + 1);
    }, 1100);
    this.sayPlaying(true);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.sayPlaying(false);
  }

  sayPlaying(on) {
    this.playButton.textContent = on ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-label", on ? "Pause" : "Play the growth");
  }
}

const view = new TreeView("n", "Reasoning tree");

/** A choice of what colours the cards. */
function colourChoice(name, chosen, choose) {
  const option = ([key, c]) =>
    el("label", {}, el("input", { type: "radio", name, value: key, checked: key === chosen, onchange: () => choose(key) }), c.name);
  return el("div", { class: "segments", role: "radiogroup", "aria-label": "Colour by" }, ...Object.entries(COLOURS).map(option));
}

/** Why a rule branched at a place: what made it the best one then. several: places in the same round. */
function reason(rule, score, several) {
  const most = several ? "among the highest" : "the highest";
  if (rule === "random" || (score === null && ["ib", "entropy", "eptree", "fixed_width"].includes(rule))) return ", chosen at random";
  if (score === null) return "";
  if (rule === "ib") return `: its IB-Score, ${signed(score)}, was ${most} of the tree then`;
  if (rule === "entropy") return `: a token there surprised the model, its −log π of ${plain(score)} was ${most} of the tree then`;
  if (rule === "eptree") {
    return `: a token there, with a −log π of ${plain(score)}, surprised the model most in the answers that were branched least`;
  }
  if (rule === "fixed_width") return ": of the depths that had room for another path the nearest to the prompt";
  return `: ${rule ? `the rule “${visible(rule)}”` : "the branching rule"} saw ${signed(score)} there`;
}
