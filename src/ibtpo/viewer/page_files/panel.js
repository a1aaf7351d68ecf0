"use strict";
// The side panel: all there is to know of one step.

const panel = {
  mostText: 20000, // characters shown at once; the rest on demand
  mostTokens: 150,

  build() {
    this.root = el("aside", { class: "panel", "aria-label": "Step", tabIndex: -1 });
    return this.root;
  },

  focus() {
    this.root.focus();
    this.root.scrollIntoView?.({ block: "nearest" });
  },

  show(t, node) {
    this.root.replaceChildren(
      this.path(t, node),
      el("h3", {}, nameOf(t, node).replace(/^(the )?./, (s) => s[0].toUpperCase() + s.slice(1)), node ? el("small", {}, ` ${depthWords(t, node)}`) : null),
      this.answers(t, node) ?? "",
      node ? this.read(t, node) : "",
      this.text(visible(t.text[node].replace(/^\n+|\n+$/g, ""))),
      this.numbers(t, node),
      this.branches(t, node) ?? "",
      node ? this.tokens(t, node) : this.made(t));
    this.root.scrollTop = 0;
  },

  path(t, node) {
    const all = pathTo(t, node);
    const steps = all.length > 42 ? [0, ...all.slice(-40)] : all; // of a very long path its start and its end
    const step = (i) => el("li", {}, el("button", {
      type: "button", title: `${t.given.has(i) ? "given: " : ""}${oneLine(t.text[i].slice(0, 200))}`, "aria-current": i === node ? "step" : undefined,
      onclick: () => view.select(i),
    }, i ? String(i) : "prompt"), i === 0 && steps !== all ? ` … ${count(all.length - 41)} steps …` : "");
    return el("nav", { "aria-label": "Path from the prompt" }, el("ol", { class: "path" }, ...steps.map(step)));
  },

  answers(t, node) {
    const here = t.leaves.map((leaf, i) => ({ leaf, i })).filter(({ leaf }) => leaf[0] === node);
    if (!here.length) return null;
    const line = ({ leaf: [, reward, stop], i }) => {
      const v = verdict(t, i);
      const detail = `answer ${i + 1}, reward ${plain(reward)}, ended by ${{ eos: "itself", length: "the length limit" }[stop] ?? stop.replace("_", " ")}`;
      return el("p", {}, el("span", { class: `verdict ${v.kind}` }, `${v.sign} ${v.words}`), el("small", {}, ` ${detail}`));
    };
    const expected = t.answer === null ? null : el("p", {}, el("small", {}, "reference answer "), el("span", { class: "answer", dir: "auto" }, visible(t.answer.slice(0, 2000))));
    return el("div", { class: "answers" }, ...here.slice(0, 20).map(line), here.length > 20 ? `and ${here.length - 20} more` : "", expected ?? "");
  },

  read(t, node) {
    const whole = t.verdicts[node].length > 0;
    return el("p", {}, el("button", { type: "button", class: "read", title: "the whole text from the prompt on (r)", onclick: () => reader.open(t, node) }, whole ? "Read the whole answer" : "Read up to here"));
  },

  text(text, of = "") {
    const wanted = app.text;
    const box = el("div", { class: "step-text", dir: "auto", tabIndex: 0, role: "region", "aria-label": `Text of the step${of}` });
    box.append(...highlighted(text.slice(0, this.mostText), wanted));
    if (!text) box.append(el("i", {}, "no text"));
    const grow = (from) => {
      if (from >= text.length) return;
      const to = from + 5 * this.mostText; // a million characters at once would hold the page up
      const more = el("button", { type: "button", onclick: () => { more.replaceWith(...highlighted(text.slice(from, to), wanted)); grow(to); } },
        `Show more (${count(text.length - from)} characters)`);
      box.append(more);
    };
    grow(this.mostText);
    return box;
  },

  numbers(t, node) {
    const row = (name, value, about, tone) => el("tr", { title: about }, el("th", { scope: "row" }, name), el("td", { class: tone }, value), el("td", { class: "why" }, about));
    const given = t.given.has(node);
    const own = node > 0 && !given;
    const answered = t.children[node].some((c) => t.given.has(c));
    const tone = (v) => (v === null ? "" : v > 0 ? "high" : v < 0 ? "low" : "");
    const tokens = t.tokens[node].length;
    const entropies = t.entropies[node];
    const rows = [
      row("p̂", plain(t.p_hat[node], 3), `mean reward of the ${many(t.under[node], "answer")} through it`),
      row("IB-Score", signed(t.ib_score[node]), answered ? "none: the environment answers here" : t.children[node].length ? "how much a branch here would tell" : "none: no step follows", tone(t.ib_score[node])),
      own && row("advantage", signed(t.advantage[node]), t.method === "ibtpo" ? t.about : `${visible(t.method)}: ${t.about}`, tone(t.advantage[node])),
      !given && row("A_GL", signed(t.a_gl[node]), "against the whole tree", tone(t.a_gl[node])),
      own && row("A_IB", signed(t.a_ib[node]), "against its siblings, η1·π", tone(t.a_ib[node])),
      own && row("η1", signed(t.eta1[node]), "information gained", tone(t.eta1[node])),
      own && row("π = η2", plain(t.eta2[node], 3), "confidence in the step"),
      node > 0 && row("draws", count(t.draws[node]), given ? "times given after its parent" : "times sampled from its parent"),
      given && row("tokens", count(tokens), "written by the environment: no probability, no advantage"),
      own && row("tokens", count(tokens), entropies ? `mean entropy ${plain(entropies.reduce((a, b) => a + b, 0) / tokens, 3)} nats` : "no entropies were stored"),
    ];
    return el("table", { class: "numbers" }, el("tbody", {}, ...rows.filter(Boolean)));
  },

  branches(t, node) {
    if (!t.grown) return null;
    const here = t.rollouts.filter(([at, , round]) => at === node && round > 0);
    const born = node ? `Came in round ${t.born[node]}. ` : "";
    const list = here.map(([, , round, score]) => `round ${round}${score === null ? "" : ` (saw ${signed(score)})`}`);
    const told = list.join(", ");
    if (list.length > 6) return el("details", { class: "born" }, el("summary", {}, `${born}Branched in ${list.length} rounds`), told);
    return el("p", { class: "born" }, born, list.length ? `Branched in ${told}.` : "No branch starts here.");
  },

  tokens(t, node) {
    const ids = t.tokens[node];
    const logs = t.given.has(node) ? null : t.logprobs[node];
    const entropies = t.entropies[node];
    const words = app.words;
    const body = el("tbody");
    const add = (from, to) => {
      for (let i = from; i < Math.min(to, ids.length); i++) {
        const p = logs && Math.exp(logs[i]);
        body.append(el("tr", {},
          words ? el("td", { class: "word" }, el("code", { dir: "auto" }, visible(words[ids[i]] ?? "?").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣"))) : "",
          el("td", { class: "id" }, String(ids[i])),
          logs ? el("td", { class: "prob" }, el("span", { class: "bar", "aria-hidden": "true", vars: { "--p": `${(100 * p).toFixed(1)}%` } }), p.toFixed(3)) : "",
          logs ? el("td", {}, (logs[i] || 0).toFixed(3).replace("-", "−")) : "",
          entropies ? el("td", {}, entropies[i].toFixed(3)) : ""));
      }
    };
    add(0, this.mostTokens);
    const head = el("tr", {}, ...[words && "text", "id", logs && "prob.", logs && "log-prob", entropies && "entropy"].filter(Boolean).map((h) => el("th", { scope: "col" }, h)));
    const more = ids.length <= this.mostTokens ? null : el("button", { type: "button", onclick: () => { add(this.mostTokens, ids.length); more.remove(); } }, `Show the other ${count(ids.length - this.mostTokens)} tokens`);
    return el("section", { class: "tokens" }, el("h4", {}, "Tokens"), el("table", {}, el("thead", {}, head), body), more ?? "");
  },

  made(t) {
    const rows = Object.entries(t.made).map(([k, v]) => [el("dt", {}, k), el("dd", { dir: "auto" }, visible(v))]).flat();
    const answer = t.answer === null ? [] : [el("dt", {}, "reference answer"), el("dd", { dir: "auto" }, visible(t.answer.slice(0, 2000)))];
    const trained = t.made["trained with"];
    const other = trained && trained !== t.method
      ? el("p", {}, el("small", {}, `The run was trained with “${visible(trained)}” advantages; those shown here are “${visible(t.method)}”.`)) : null;
    return el("section", { class: "made" }, el("h4", {}, "How it was made"), el("dl", {}, ...answer, ...rows), other ?? "");
  },
};

function depthWords(t, node) {
  const following = below(t, node);
  return `· ${t.given.has(node) ? "given by the environment at " : ""}depth ${t.steps[node]}${following ? `, ${many(following, "step")} below` : ", an end"}`;
}
