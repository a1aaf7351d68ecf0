"use strict";
// Reading what the file holds, and what every part of the page needs: elements, numbers, colours, verdicts.
// Model text reaches the page through textContent alone.

const facts = JSON.parse(document.getElementById("facts").textContent);
const NONE = "–";

/** A new element. Properties are set, `data-…` and `aria-…` become attributes, strings become text. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for") node.setAttribute(key, value);
    else if (key === "class") node.className = value;
    else if (key === "vars") for (const [name, v] of Object.entries(value)) node.style.setProperty(name, v);
    else node[key] = value;
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);

// --- compressed chunks -----------------------------------------------------------------------------------------

async function unpackText(element) {
  if (!globalThis.DecompressionStream) throw new Error("This browser is too old: it cannot unpack the trees.");
  const binary = atob(element.textContent.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const unpack = async (element) => JSON.parse(await unpackText(element));

/** Runs a library that the page holds packed, once; the page's policy names its hash, so nothing else would run. */
async function useLibrary(id) {
  const packed = byId(id);
  if (packed.dataset.runs) return;
  packed.dataset.runs = "yes";
  document.head.append(el("script", {}, await unpackText(packed)));
}

const wholePage = new Promise((done) => {
  if (document.readyState !== "loading") done();
  else document.addEventListener("DOMContentLoaded", () => done(), { once: true });
});

let recent = {}; // the chunk that was read last, and its lines

/** The JSON of the tree at a place of the index; undefined if its chunk is not there. Its chunk is named by the place
 *  of the first tree in it. */
async function lineOf(at) {
  let first = at;
  while (first > 0 && !byId(`t${first}`)) first--;
  const chunk = byId(`t${first}`);
  if (!chunk?.nextSibling) return undefined; // it may be half there
  if (recent.chunk !== chunk) recent = { chunk, lines: unpackText(chunk).then((text) => text.split("\n")) };
  return (await recent.lines)[at - first];
}

/** The tree at a place of the index. While the file is still being read its chunk may not be there yet. */
async function readTree(at, shaped = true) {
  let line = await lineOf(at);
  if (line === undefined) {
    await wholePage;
    line = await lineOf(at);
  }
  if (line === undefined) throw new Error("This file is cut short: the tree is missing from it. Write it again.");
  const t = JSON.parse(line);
  return shaped ? shape(t) : t;
}

/** The index: one object a tree, with the key that names it in links. */
async function readIndex() {
  const columns = await unpack(byId("index"));
  const names = Object.keys(columns);
  const several = facts.sets.length > 1;
  const keys = columns.id.map((id, at) => [...(several ? [facts.sets[columns.set[at]]] : []), ...(columns.step[at] === null ? [] : [columns.step[at]]), id].join(":"));
  const [own, taken] = [new Set(keys), new Set()];
  return keys.map((key, at) => {
    const row = { at, key };
    for (const name of names) row[name] = columns[name][at];
    // An id may occur twice in a file from elsewhere; no tree's own key is given to another one's second.
    if (taken.has(key)) do row.key += "~2"; while (own.has(row.key) || taken.has(row.key));
    taken.add(row.key);
    row.set ??= 0;
    row.low = `${row.key}\n${row.prompt}`.toLowerCase();
    return row;
  });
}

/** Adds what the page derives from a tree: children, depths, verdicts, in which round each node came. `depth` counts
 *  every step, for the columns; `steps` counts those that the model sampled. */
function shape(t) {
  const n = t.parent.length;
  t.children = t.parent.map(() => []);
  t.depth = new Array(n).fill(0);
  t.steps = new Array(n).fill(0);
  t.given = new Set(t.given);
  for (let i = 1; i < n; i++) {
    t.children[t.parent[i]].push(i);
    t.depth[i] = t.depth[t.parent[i]] + 1;
    t.steps[i] = t.steps[t.parent[i]] + (t.given.has(i) ? 0 : 1);
  }
  t.verdicts = t.parent.map(() => []);
  t.leaves.forEach(([node], i) => t.verdicts[node].push(verdict(t, i)));
  t.under = new Array(n).fill(0);
  for (const [node] of t.leaves) t.under[node]++;
  for (let i = n - 1; i > 0; i--) t.under[t.parent[i]] += t.under[i];
  t.grown = t.rollouts.length === t.leaves.length && t.rollouts.length > 0;
  t.born = new Array(n).fill(0);
  t.rounds = [];
  if (t.grown) grow(t, n);
  return t;
}

function grow(t, n) {
  t.born.fill(Infinity);
  t.born[0] = 0;
  t.rollouts.forEach(([at, tokens, round, score], i) => {
    for (let node = t.leaves[i][0]; node > 0; node = t.parent[node]) t.born[node] = Math.min(t.born[node], round);
    const place = (t.rounds[round] ??= []);
    place.push({ at, tokens, score, answer: i });
  });
  for (let i = 1; i < n; i++) if (t.born[i] === Infinity) t.born[i] = t.born[t.parent[i]];
  t.numbers = Object.keys(t.rounds).map(Number); // rounds that brought something, in order
}

/** An answer's verdict: a kind for its colour, a sign, words, and fewer words for a card. */
function verdict(t, i) {
  const [, reward, stop] = t.leaves[i];
  const of = (kind, sign, words, brief = words) => ({ kind, sign, words, brief });
  if (stop === "verifier_error" || stop === "engine_error") return of("error", "⚠", stop.replace("_", " "));
  const correct = t.correct ? t.correct[i] : reward;
  const cut = stop === "length";
  if (correct === null) return of("error", "⚠", cut ? "no reward, cut short" : "no reward", "no reward");
  const [kind, sign, word] = correct >= 1 ? ["right", "✓", "right"] : correct <= 0 ? ["wrong", "✗", "wrong"] : ["partly", "◐", plain(correct)];
  return cut ? of(kind === "right" ? kind : "cut", `${sign}✂`, `${word}, cut short`, "cut short") : of(kind, sign, word);
}

/** What a node is called: the prompt, a step of the model's, or an observation, which the environment gave. */
const kindOf = (t, node) => (t.given.has(node) ? "observation" : "step");
const nameOf = (t, node) => (node ? `${kindOf(t, node)} ${node}` : "the prompt");

function pathTo(t, node) {
  const path = [];
  for (; node > 0; node = t.parent[node]) path.push(node);
  return [0, ...path.reverse()];
}

// --- text ------------------------------------------------------------------------------------------------------

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Control characters, bidirectional overrides and lone surrogates as [U+202E]: a text cannot pose as another. */
function visible(text) {
  return text.replace(HIDDEN, (c) => `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

const oneLine = (text) => visible(text.replace(/\s+/g, " ").trim());

/** Text with what was searched for marked. */
function highlighted(text, wanted) {
  if (!wanted) return [text];
  const out = [];
  const low = text.toLowerCase();
  let from = 0;
  // A few letters change length in lower case; then marks could be off, so there are none.
  for (let at; low.length === text.length && (at = low.indexOf(wanted, from)) >= 0 && out.length < 400; from = at + wanted.length)
    out.push(text.slice(from, at), el("mark", {}, text.slice(at, at + wanted.length)));
  return [...out, text.slice(from)];
}

// --- numbers and colours ---------------------------------------------------------------------------------------

/** A score with its sign; none is not zero. */
function signed(v, digits = 3) {
  if (v === null || v === undefined) return NONE;
  if (Math.abs(v) >= 1000) return (v > 0 ? "+" : "−") + Math.abs(v).toExponential(2);
  const text = Math.abs(v).toFixed(digits);
  return Number(text) === 0 ? text : (v > 0 ? "+" : "−") + text;
}

function plain(v, digits = 2) {
  if (v === null || v === undefined) return NONE;
  if (v !== 0 && (Math.abs(v) < 0.5 * 10 ** -digits || Math.abs(v) >= 1e6)) return v.toExponential(1).replace("-", "−");
  return v.toFixed(digits).replace("-", "−");
}

const count = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const many = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

const COLOURS = {
  p_hat: { name: "Value p̂", show: (v) => plain(v), scale: "", none: "none: no reward is known below" },
  ib_score: { name: "IB-Score", show: (v) => signed(v), scale: "; its middle is the median of all steps", none: "none: no step follows, the environment answers there, or no reward is known" },
  advantage: { name: "Advantage", show: (v) => signed(v), scale: ", by square roots, so that small ones can be told apart", none: "none: no reward is known below, the prompt, or given by the environment" },
};

/** Where a value lies on the file's scale, −1 to 1; null for none. Advantages by square roots: most are near zero. */
function onScale(v, by) {
  if (v === null || v === undefined) return null;
  const [low, middle, high] = facts.scale[by];
  const part = Math.min(1, v >= middle ? (v - middle) / (high - middle) : (middle - v) / (middle - low));
  return Math.sign(v - middle) * (by === "advantage" ? Math.sqrt(part) : part);
}

/** ▲ above the middle of the scale, ▼ below, ＝ on it: the sign without the colour. */
function arrow(v, by) {
  if (v === null || v === undefined) return "";
  const off = v - facts.scale[by][1];
  return Math.abs(off) < 5e-10 ? "=" : off > 0 ? "▲" : "▼";
}
