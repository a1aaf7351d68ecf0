"use strict";
// The whole answer that ends at a step, in one place: as it is meant to look, as raw text, or token by token.

const MODES = {
  read: ["Answer", "1", "Markdown and mathematics as they are meant to look"],
  raw: ["Raw text", "2", "the characters as they were sampled"],
  tokens: ["Tokens", "3", "each token; the less probable it was, the stronger its colour"],
};
const MOST_RENDERED = 60_000; // characters; a longer answer is shown as raw text
const MOST_TOKENS = 5_000; // shown at once

const reader = {
  mode: "read",
  borders: false,
  numbers: false,

  build() {
    const box = byId("reader");
    this.title = el("h2", { id: "reader-title" });
    this.modes = el("div", { class: "segments", role: "radiogroup", "aria-label": "Show as" },
      ...Object.entries(MODES).map(([key, [name, digit, about]]) => el("label", { title: `${about} (${digit})` }, el("input", { type: "radio", name: "mode", value: key, checked: key === this.mode, onchange: () => this.show(key) }), name)));
    const toggle = (name, key, about, act) => el("button", { type: "button", title: `${about} (${key})`, "aria-pressed": "false", onclick: act }, name);
    this.stepsButton = toggle("Step borders", "s", "where the steps begin, with their scores", () => this.toggle("borders"));
    this.numbersButton = toggle("Probabilities", "p", "the probability of each token", () => this.toggle("numbers"));
    this.about = el("div", { class: "answers" });
    this.body = el("div", { class: "reading", tabIndex: 0, role: "region", "aria-label": "The answer" });
    this.told = el("p", { class: "told", role: "status" });
    box.append(
      el("header", {}, this.title, el("button", { type: "button", "aria-label": "Close", title: "Close (Esc)", onclick: () => box.close() }, "✕")),
      el("div", { class: "controls" }, this.modes, this.stepsButton, this.numbersButton),
      this.about, this.body, this.told);
    box.addEventListener("click", (event) => event.target === box && box.close());
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("close", () => this.opener?.focus({ preventScroll: true }));
    this.body.addEventListener("focusin", (event) => this.tell(event.target.closest(".tok")));
    this.body.addEventListener("mouseover", (event) => this.tell(event.target.closest(".tok")));
    this.body.addEventListener("click", (event) => { const tok = event.target.closest(".tok"); if (tok) this.go(tok); });
  },

  /** Opens the answer that a node ends, or what there is of it up to that node. */
  async open(t, node) {
    this.opener = document.activeElement;
    Object.assign(this, { t, node, path: pathTo(t, node).slice(1) });
    const here = t.leaves.map(([n], i) => (n === node ? i + 1 : 0)).filter(Boolean);
    this.title.textContent = here.length ? `Answer ${here.slice(0, 6).join(", ")}${here.length > 6 ? ", …" : ""} of ${count(t.leaves.length)}` : `The text up to ${nameOf(t, node)}`;
    this.about.replaceChildren(
      el("details", { class: "question" }, el("summary", {}, "Question"), el("div", { class: "step-text", dir: "auto" }, visible(t.text[0].slice(0, 20_000)))),
      panel.answers(t, node) ?? "");
    if (!byId("reader").open) byId("reader").showModal();
    await this.show(this.mode);
    this.body.focus({ preventScroll: true });
  },

  async show(mode) {
    this.mode = mode;
    for (const input of this.modes.querySelectorAll("input")) input.checked = input.value === mode;
    this.stepsButton.setAttribute("aria-pressed", this.borders);
    this.numbersButton.setAttribute("aria-pressed", this.numbers);
    this.numbersButton.hidden = mode !== "tokens";
    this.told.textContent = mode === "tokens" ? "Point at a token, or walk with ← and →, to see its probability." : "";
    const text = this.path.map((i) => this.t.text[i]).join("");
    const long = mode === "read" && text.length > MOST_RENDERED;
    const rendered = mode === "read" && !long;
    if (rendered) await markdown.ready();
    if (mode !== this.mode) return; // meanwhile another was chosen
    this.body.className = `reading ${mode}${this.numbers ? " with-numbers" : ""}`;
    this.body.replaceChildren(...(long ? [el("p", {}, el("small", {}, `This answer has ${count(text.length)} characters, which is too long to render: here is its raw text.`))] : []),
      ...(mode === "tokens" ? this.tokens() : this.texts(rendered, text)));
    this.body.scrollTop = 0;
  },

  /** The text as a whole or, with borders, step by step, each with its scores; what was given always stands apart. */
  texts(rendered, text) {
    const pieces = (part) => (rendered ? markdown.render(part) : [el("div", { class: "step-text", dir: "auto" }, visible(part))]);
    if (!text.trim()) return [el("p", {}, el("i", {}, "no text"))];
    if (!this.borders && !this.path.some((i) => this.t.given.has(i))) return pieces(text);
    const out = [];
    for (const i of this.path) {
      const given = this.t.given.has(i);
      if (this.borders || given || out.at(-1)?.given !== false) out.push({ given, at: i, text: this.t.text[i] });
      else out.at(-1).text += this.t.text[i];
    }
    return out.map((part) => this.section(part.at, part.given, pieces(part.text)));
  },

  section(i, given, children) {
    const t = this.t;
    const facts = given ? ["↩ given by the environment"] : [`step ${i}`, `p̂ ${plain(t.p_hat[i])}`, `π ${plain(t.eta2[i])}`, `advantage ${signed(t.advantage[i])}`];
    const step = el("section", { class: `step${given ? " given" : ""}` });
    if (this.borders || given) step.append(el("p", { class: "step-facts" }, el("button", { type: "button", class: "link", onclick: () => this.leave(i) }, facts[0]), ` ${facts.slice(1).join(" · ")}`));
    step.append(...children);
    return step;
  },

  /** Closes, and goes to a step in the tree. */
  leave(i) {
    this.opener = null;
    byId("reader").close();
    (byId("pair").hidden ? view : pairView.active).select(i);
  },

  tokens() {
    const all = this.path.flatMap((i) => this.t.tokens[i].map((id, k) => ({ i, k, id })));
    const make = ({ i, k, id }, n) => {
      const p = this.t.given.has(i) ? null : Math.exp(this.t.logprobs[i][k]);
      const text = app.words ? visible(app.words[id] ?? "?") : String(id);
      return el("span", {
        class: `tok${p === null ? " given" : ""}${app.words ? "" : " id"}`, tabIndex: n ? -1 : 0, "data-i": i, "data-k": k, "data-n": n + 1, "data-p": p === null ? "given" : p.toFixed(2),
        "aria-label": `${text}, ${p === null ? "given" : `probability ${p.toFixed(3)}`}`, role: "listitem", vars: { "--p": `${p === null ? 0 : Math.round(70 * (1 - p))}%` },
      }, text.replace(/\n/g, "⏎\n"));
    };
    const sections = [];
    const add = (from) => {
      for (let n = from; n < Math.min(all.length, from + MOST_TOKENS); n++) {
        const { i } = all[n];
        if (!sections.length || (this.borders && sections.at(-1).i !== i)) sections.push({ i, box: el("div", { class: "step-text", role: "list", "aria-label": this.borders ? `Tokens of step ${i}` : "Tokens" }) });
        sections.at(-1).box.append(make(all[n], n));
      }
    };
    add(0);
    this.all = all.length;
    if (!all.length) return [el("p", {}, el("i", {}, "no tokens"))];
    const out = sections.map(({ i, box }) => (this.borders ? this.section(i, this.t.given.has(i), [box]) : box));
    if (all.length <= MOST_TOKENS) return out;
    return [...out, el("p", {}, el("small", {}, `and ${count(all.length - MOST_TOKENS)} tokens more; each step's are in its panel.`))];
  },

  tell(tok) {
    if (!tok) return;
    const { i, k, n } = tok.dataset;
    const t = this.t;
    const given = t.given.has(Number(i));
    const [log, entropy] = [t.logprobs[i][k], t.entropies[i]?.[k]];
    const said = given ? ["given by the environment"] : [`probability ${Math.exp(log).toFixed(3)}`, `log-prob ${(log || 0).toFixed(3).replace("-", "−")}`, entropy === undefined ? "" : `entropy ${entropy.toFixed(3)} nats`];
    this.told.textContent = [`token ${n} of ${count(this.all)}`, `id ${t.tokens[i][k]}`, `step ${i}`, ...said].filter(Boolean).join(" · ");
  },

  go(tok) {
    for (const one of this.body.querySelectorAll('.tok[tabindex="0"]')) one.tabIndex = -1;
    tok.tabIndex = 0;
    tok.focus();
  },

  toggle(what) {
    this[what] = !this[what];
    this.show(this.mode);
  },

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const mode = Object.keys(MODES).find((m) => MODES[m][1] === event.key);
    const step = this.mode === "tokens" && { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (mode) this.show(mode);
    else if (event.key === "s") this.toggle("borders");
    else if (event.key === "p" && this.mode === "tokens") this.toggle("numbers");
    else if (step && !event.target.closest("input")) {
      const all = [...this.body.querySelectorAll(".tok")];
      const at = all.indexOf(document.activeElement);
      const next = all[at < 0 ? 0 : at + step];
      if (next) this.go(next);
    } else return;
    event.preventDefault();
  },
};
