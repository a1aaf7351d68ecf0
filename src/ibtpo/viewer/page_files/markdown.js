"use strict";
// An answer as its author meant it to look: Markdown and mathematics. marked only takes the text apart, and the elements
// are made here, one by one; so no text is ever read as HTML, no link leads anywhere, and no picture is fetched.
// Temml makes MathML of LaTeX; of what it makes only names known to be harmless stay.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const MATH_NAMES = new Set("math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mstyle merror mpadded mphantom menclose msub msup msubsup munder mover munderover mmultiscripts mprescripts none mtable mtr mtd".split(" "));
const MATH_ATTRIBUTES = new Set("class style display displaystyle scriptlevel mathvariant mathsize mathcolor mathbackground stretchy symmetric fence separator form lspace rspace minsize maxsize largeop movablelimits accent accentunder linethickness width height depth voffset columnalign rowalign columnlines rowlines columnspacing rowspacing columnspan rowspan frame notation".split(" "));
const MOST_MATH = 4000; // characters of a formula

const markdown = {
  reader: null,

  /** Loads what it takes, once. */
  async ready() {
    if (this.reader) return;
    await useLibrary("marked.umd.js");
    if (byId("temml.min.js")) await useLibrary("temml.min.js"); // a page without LaTeX does not hold it
    this.reader = new marked.Marked({ gfm: true, extensions: [] }).use({ extensions: [
      { name: "display", level: "block", start: (s) => /\$\$|\\\[|\\begin\{/.exec(s)?.index, tokenizer: (s) => formula(s, true) },
      { name: "math", level: "inline", start: (s) => /\$|\\[([]|\\begin\{|\\boxed\{/.exec(s)?.index, tokenizer: (s) => formula(s, false) },
    ] });
  },

  /** The text as elements; as plain text if it cannot be taken apart. */
  render(text) {
    try {
      return this.blocks(this.reader.lexer(text));
    } catch {
      return [el("div", { class: "step-text" }, visible(text))];
    }
  },

  blocks(tokens) { return (tokens ?? []).flatMap((t) => this.block(t)); },

  block(t) {
    switch (t.type) {
      case "space": case "def": return t.type === "def" ? [el("p", {}, visible(t.raw))] : [];
      case "hr": return [el("hr")];
      case "heading": return [el("p", { class: `heading level-${t.depth}`, dir: "auto" }, ...this.spans(t.tokens))]; // no heading of the page;
      case "paragraph": return [el("p", { dir: "auto" }, ...this.spans(t.tokens))];
      case "code": return [el("pre", { tabIndex: 0 }, el("code", {}, visible(t.text)))];
      case "blockquote": return [el("blockquote", {}, ...this.blocks(t.tokens))];
      case "list": {
        const items = t.items.map((item) => el("li", { dir: "auto" }, item.task ? (item.checked ? "☑ " : "☐ ") : "", ...this.blocks(item.tokens)));
        return [t.ordered ? el("ol", { start: Number(t.start) || 1 }, ...items) : el("ul", {}, ...items)];
      }
      case "table": {
        const row = (cells, tag) => el("tr", {}, ...cells.map((c, i) => el(tag, { class: t.align[i] ? `to-${t.align[i]}` : undefined }, ...this.spans(c.tokens))));
        return [el("div", { class: "wide", tabIndex: 0, role: "group", "aria-label": "Table" }, el("table", {}, el("thead", {}, row(t.header, "th")), el("tbody", {}, ...t.rows.map((r) => row(r, "td")))))];
      }
      case "display": return [el("div", { class: "wide", tabIndex: 0, role: "group", "aria-label": "Formula" }, math(t.text, true, t.raw))];
      case "text": return t.tokens ? this.spans(t.tokens) : [visible(t.text)];
      default: return this.span(t, "p");
    }
  },

  spans(tokens) { return (tokens ?? []).flatMap((t) => this.span(t)); },

  span(t, tag) {
    const inside = () => this.spans(t.tokens);
    switch (t.type) {
      case "text": case "escape": return t.tokens ? inside() : [visible(t.text)];
      case "strong": return [el("strong", {}, ...inside())];
      case "em": return [el("em", {}, ...inside())];
      case "del": return [el("del", {}, ...inside())];
      case "codespan": return [el("code", {}, visible(t.text))];
      case "br": return [el("br")];
      case "math": return [math(t.text, t.display, t.raw)];
      // Where a link leads is told, as the text that it was written as; nothing can be clicked or fetched.
      case "link": return t.text === t.href ? [visible(t.text)] : [...inside(), el("span", { class: "address" }, ` (${visible(t.href)})`)];
      default: return [tag ? el(tag, {}, visible(t.raw)) : visible(t.raw)]; // html, images, and what is not known
    }
  },
};

/** The formula that a text begins with, as a token for marked: $…$, $$…$$, \(…\), \[…\], an environment, or \boxed{…}. */
function formula(s, block) {
  const most = s.slice(0, MOST_MATH);
  const found = (pattern, display, keep) => {
    const m = pattern.exec(most);
    return m && { type: block ? "display" : "math", raw: m[0], text: keep ? m[0].trim() : m[1], display };
  };
  if (block) {
    return found(/^ {0,3}\$\$([^]+?)\$\$[ \t]*(?:\n|$)/, true) ?? found(/^ {0,3}\\\[([^]+?)\\\][ \t]*(?:\n|$)/, true)
      ?? found(/^ {0,3}\\begin\{((?:equation|align|gather|alignat|multline|eqnarray|cases|array|[bpvBV]?matrix)\*?)\}[^]+?\\end\{\1\}[ \t]*(?:\n|$)/, true, true) ?? undefined;
  }
  return found(/^\$\$([^]+?)\$\$/, true) ?? found(/^\$(?![\s$])((?:\\[^]|[^\\$\n]|\n(?!\s*\n))+?)(?<!\s)\$(?!\d)/, false)
    ?? found(/^\\\(([^]+?)\\\)/, false) ?? found(/^\\\[([^]+?)\\\]/, true)
    ?? found(/^\\begin\{((?:equation|align|gather|cases|array|[bpvBV]?matrix)\*?)\}[^]+?\\end\{\1\}/, true, true) ?? boxed(most) ?? undefined;
}

/** A final answer as many models write it, \boxed{…}, outside of any formula. */
function boxed(s) {
  if (!s.startsWith("\\boxed{")) return null;
  for (let i = 7, open = 1; i < s.length; i++) {
    if (s[i] === "\\") i++;
    else if (s[i] === "{") open++;
    else if (s[i] === "}" && --open === 0) return { type: "math", raw: s.slice(0, i + 1), text: s.slice(0, i + 1), display: false };
  }
  return null;
}

/** LaTeX as MathML; as it was written if it is none. */
function math(tex, display, raw) {
  const box = el("span", { class: "math", title: visible(raw.trim()) });
  try {
    // No trust: \includegraphics, \class, \style and their like are errors. Sizes and the growth of macros are bounded.
    temml.render(tex, box, { displayMode: display, throwOnError: true, trust: false, maxSize: [10, 72], maxExpand: 200 });
    harmless(box);
  } catch {
    return el("code", { class: "math", title: "not read as mathematics" }, visible(raw));
  }
  return box;
}

/** Takes everything out of a formula but MathML's own names, and attributes that only change how it looks. */
function harmless(box) {
  for (const node of [...box.querySelectorAll("*")]) {
    if (node.namespaceURI !== MATHML || !MATH_NAMES.has(node.localName)) { node.replaceWith(...node.childNodes); continue; }
    for (const { name, value } of [...node.attributes]) if (!MATH_ATTRIBUTES.has(name) || /url|position|fixed/i.test(value)) node.removeAttribute(name);
  }
  const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) walk.currentNode.data = visible(walk.currentNode.data);
}
