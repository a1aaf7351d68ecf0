"use strict";
// Draws the charts with uPlot in place of the page's static pictures, which stay for paper. A chart can be read by mouse
// and by keyboard: it is a slider over its points, with buttons to zoom and one for each curve. Text from a run reaches
// the page through textContent alone.

const DASHES = [[], [8, 3], [2, 3], [10, 3, 2, 3], [14, 4], [6, 3, 2, 3, 2, 3]];
const COLOURS = 6;
const HEIGHT = 236;
const FEW = 12; // with fewer points a curve has no running mean, and its points are marked

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const known = (v) => v !== null && v !== undefined;

/** A new element; properties are set, `aria-…` and `role` become attributes, strings become text. */
function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

function say(value, percent, digits = 4) {
  if (!known(value)) return "–";
  const number = Number((percent ? 100 * value : value).toPrecision(digits));
  const text = number && Math.abs(number) < 1e-4 ? number.toExponential() : String(number); // 0.000007868 is too long for an axis
  return text.replaceAll("-", "−") + (percent ? " %" : "");
}

function brief(value) {
  const size = Math.abs(value);
  return size >= 1e6 ? `${Number((value / 1e6).toPrecision(4))}M` : size >= 1e3 ? `${Number((value / 1e3).toPrecision(4))}k` : say(value);
}

/** The mean of each value and its neighbours, `width` of them, nulls left out. */
function runningMean(values, width) {
  const [sum, count] = [[0], [0]];
  values.forEach((v, i) => { sum.push(sum[i] + (v ?? 0)); count.push(count[i] + known(v)); });
  return values.map((v, i) => {
    const [low, high] = [Math.max(0, i - ((width - 1) >> 1)), Math.min(values.length, i + (width >> 1) + 1)];
    return known(v) ? (sum[high] - sum[low]) / (count[high] - count[low]) : null;
  });
}

/** A sample of how a curve is drawn, for its button. */
function swatch(curve) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [key, value] of Object.entries({ viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" })) svg.setAttribute(key, value);
  for (const [key, value] of Object.entries({ x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 3, "stroke-dasharray": DASHES[curve.dash % DASHES.length].join(" ") })) line.setAttribute(key, value);
  line.setAttribute("class", `k${curve.colour % COLOURS}`);
  svg.append(line);
  return svg;
}

class Chart {
  constructor(figure, spec, runs) {
    this.figure = figure;
    this.hidden = new Set();
    this.host = make("div", { className: "chart", tabIndex: 0, role: "slider" });
    this.legend = make("ul", { className: "legend" });
    this.where = make("span", { className: "where" });
    const button = (sign, name, act) => {
      const b = make("button", { type: "button", title: name, "aria-label": `${name}: ${spec.title}` }, sign);
      b.addEventListener("click", act);
      return b;
    };
    this.tools = make("div", { className: "tools" }, this.where,
      button("+", "Zoom in", () => this.zoom(0.5)), button("−", "Zoom out", () => this.zoom(2)), button("↔", "Show all", () => this.all()));
    figure.querySelector("h3").after(this.legend, this.host, this.tools);
    this.host.addEventListener("keydown", (event) => this.key(event));
    this.host.addEventListener("blur", () => this.point(null));
    this.take(spec, runs);
    this.size = new ResizeObserver(() => this.plot.setSize({ width: this.host.clientWidth, height: HEIGHT }));
    this.size.observe(this.host);
    figure.classList.add("drawn");
  }

  // --- numbers ---------------------------------------------------------------------------------------------------

  /** Takes new numbers. The drawing is made anew only if the curves are others; a zoom stays. */
  take(spec, runs) {
    const same = this.plot && JSON.stringify(this.spec.curves) === JSON.stringify(spec.curves);
    this.spec = spec;
    this.axis = `${spec.view} ${spec.divisor}`; // charts of one axis have one cursor and zoom together
    this.runs = runs;
    this.curves = spec.curves.filter((c) => runs[c.run]?.y[c.metric]);
    const data = this.table();
    const xs = data[0].concat(spec.held.map((h) => h[0]));
    const [low, high] = [Math.min(...xs), Math.max(...xs)];
    const pad = low === high ? 0.5 : 0.02 * (high - low);
    const zoomed = this.bounds ? this.zoomed() : charts.window(this.axis);
    this.bounds = [low - pad, high + pad];
    if (!zoomed) this.window = this.bounds;
    else if (zoomed !== true) this.window = zoomed;
    if (same) {
      this.plot.setData(data, false);
      this.plot.setScale("x", { min: this.window[0], max: this.window[1] });
    } else this.draw(data);
    const block = Math.max(...this.curves.map((c) => runs[c.run].block));
    this.note = block > 1 ? `, means of ${block} steps` : "";
    this.tell();
  }

  /** uPlot's table: the places, then for each curve its values and its running means. */
  table() {
    const parts = new Map(); // a table a run, since runs have places of their own
    let below = null;
    for (const c of this.curves) {
      const run = this.runs[c.run];
      const kept = run.x[this.spec.view].map((x, i) => (known(x) ? i : -1)).filter((i) => i >= 0);
      let y = kept.map((i) => run.y[c.metric][i]);
      if (this.spec.log) y = y.map((v) => (v > 0 ? v : null));
      c.values = y;
      if (this.spec.stacked) {
        const shown = !this.hidden.has(c.label);
        y = below = y.map((v, i) => (shown ? v ?? 0 : 0) + (below ? below[i] : 0));
      }
      c.few = y.filter(known).length < FEW;
      const mean = this.spec.stacked || c.few ? y.map(() => null) : runningMean(y, run.width);
      if (!parts.has(c.run)) parts.set(c.run, [kept.map((i) => run.x[this.spec.view][i] / this.spec.divisor)]);
      parts.get(c.run).push(y, mean);
    }
    const tables = [...parts.values()];
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  draw(data) {
    this.plot?.destroy();
    const { spec } = this;
    const [ink, grid] = [colour("ink"), colour("grid")];
    const font = `12px ${colour("sans")}`;
    const axis = (more) => ({ stroke: ink, font, labelFont: font, grid: { stroke: grid, width: 0.6 }, ticks: { stroke: grid, width: 1, size: 4 }, ...more });
    const series = this.curves.flatMap((c) => {
      const stroke = colour(`c${c.colour % COLOURS}`);
      const dash = DASHES[c.dash % DASHES.length];
      const show = !this.hidden.has(c.label);
      if (spec.stacked) return [{ show, stroke, width: 1.2, fill: `${stroke}99`, points: { show: false } }, { show: false }];
      const thin = { show, stroke, spanGaps: true, width: c.few ? 1.8 : 0.8, alpha: c.few ? 1 : 0.45, dash: c.few ? dash : [], points: { show: c.few, size: 6, fill: stroke } };
      return [thin, { show: show && !c.few, stroke, spanGaps: true, width: 2, dash, points: { show: false } }];
    });
    const bands = spec.stacked ? this.curves.slice(1).map((c, i) => ({ series: [2 * i + 3, 2 * i + 1] })) : [];
    this.plot = new uPlot({
      width: this.host.clientWidth || 400, height: HEIGHT, legend: { show: false }, bands,
      scales: {
        x: { time: false, auto: false, min: this.window[0], max: this.window[1] },
        y: { distr: spec.log ? 3 : 1, range: (u, low, high) => this.reach(low, high) },
      },
      axes: [
        axis({ label: spec.axis, labelSize: 20, size: 30, values: (u, marks) => marks.map((v) => (spec.view === "step" && !Number.isInteger(v) ? "" : brief(v))) }),
        axis({ label: spec.unit, labelSize: 18, size: 62, values: (u, marks) => marks.map((v) => (known(v) ? say(v, spec.percent) : "")) }),
      ],
      series: [{}, ...series],
      cursor: {
        x: true, y: false, drag: { x: true, y: false, setScale: false },
        sync: { key: this.axis, setSeries: false, filters: { pub: (event) => event !== "mousedown" && event !== "mouseup" } },
        points: { size: 7 }, dataIdx: (u, at, index) => nearest(u.data[at], index),
        bind: { dblclick: () => () => this.all() },
      },
      hooks: {
        drawClear: [(u) => this.lines(u, grid, ink)],
        draw: [(u) => this.measured(u)],
        setCursor: [() => this.tell()],
        setSelect: [(u) => this.dragged(u)],
      },
    }, data, this.host);
    this.buttons();
  }

  /** The y axis's limits, as the static pictures have them. */
  reach(low, high) {
    const { spec } = this;
    const inside = spec.held.filter((h) => h[0] >= this.window[0] && h[0] <= this.window[1]);
    const all = [low, high, ...inside.flatMap((h) => [h[2], h[3]]), spec.threshold, spec.zero ? 0 : null].filter(known);
    if (!all.length) return [0, 1];
    [low, high] = [Math.min(...all), Math.max(...all)];
    if (spec.log) return [low / 2, high * 2];
    const pad = 0.06 * (high - low) || 0.05 * Math.abs(high) || 0.5;
    return [spec.fromZero ? 0 : low - pad, Math.max(high + pad, spec.fromZero ? spec.least : -Infinity)];
  }

  /** The lines at zero and at the threshold. */
  lines(u, grid, ink) {
    for (const [value, dash] of [[this.spec.zero ? 0 : null, []], [this.spec.threshold, [2, 3]]]) {
      if (!known(value) || value < u.scales.y.min || value > u.scales.y.max) continue;
      const y = u.valToPos(value, "y", true);
      this.stroke(u, ink, 1, dash, (p) => { p.moveTo(u.bbox.left, y); p.lineTo(u.bbox.left + u.bbox.width, y); });
    }
  }

  /** The measurements with their intervals, as open circles with bars. */
  measured(u) {
    for (const [x, value, low, high, index] of this.spec.held) {
      if (x < this.window[0] || x > this.window[1]) continue;
      const [px, py, top, bottom] = [u.valToPos(x, "x", true), ...[value, high, low].map((v) => u.valToPos(v, "y", true))];
      const size = 4 * devicePixelRatio;
      this.stroke(u, colour(`c${index % COLOURS}`), 1.8, [], (p) => {
        for (const y of [top, bottom]) { p.moveTo(px - size, y); p.lineTo(px + size, y); }
        p.moveTo(px, top);
        p.lineTo(px, bottom);
        p.moveTo(px + size, py);
        p.arc(px, py, size, 0, 2 * Math.PI);
      });
    }
  }

  stroke(u, style, width, dash, path) {
    const p = u.ctx;
    p.save();
    p.strokeStyle = style;
    p.lineWidth = width * devicePixelRatio;
    p.setLineDash(dash.map((d) => d * devicePixelRatio));
    p.beginPath();
    path(p);
    p.stroke();
    p.restore();
  }

  // --- reading ---------------------------------------------------------------------------------------------------

  /** One button a curve: what it is called, its value at the cursor, and whether it is shown. */
  buttons() {
    this.values = [];
    this.legend.replaceChildren(...this.curves.map((c, i) => {
      const value = make("span", { className: "value" });
      const b = make("button", { type: "button", "aria-pressed": String(!this.hidden.has(c.label)), title: "Show or hide" }, swatch(c), make("bdi", {}, c.label), value);
      b.addEventListener("click", () => this.toggle(i));
      this.values.push([b, value]);
      return make("li", {}, b);
    }));
  }

  toggle(i) {
    const { label, few } = this.curves[i];
    const show = this.hidden.has(label);
    if (show) this.hidden.delete(label); else this.hidden.add(label);
    this.values[i][0].setAttribute("aria-pressed", String(show));
    if (this.spec.stacked) this.plot.setData(this.table(), false);
    this.plot.setSeries(2 * i + 1, { show });
    if (!this.spec.stacked && !few) this.plot.setSeries(2 * i + 2, { show });
    this.plot.redraw();
    this.tell();
  }

  /** Says what is at the cursor, or at the end if there is none. */
  tell() {
    const u = this.plot;
    if (!u || !this.values) return;
    const { idx, idxs } = u.cursor;
    const last = u.data[0].length - 1;
    const at = known(idx) ? idx : last;
    const place = u.data[0][at];
    const texts = this.curves.map((c, i) => {
      const index = known(idx) ? (idxs?.[2 * i + 1] ?? nearest(u.data[2 * i + 1], at)) : nearest(u.data[2 * i + 1], last);
      const value = this.spec.stacked ? c.values[index] : u.data[2 * i + 1][index];
      const mean = u.data[2 * i + 2][index];
      const text = say(value, this.spec.percent) + (known(mean) ? ` (mean ${say(mean, this.spec.percent, 3)})` : "");
      if (this.values[i][1].textContent !== text) this.values[i][1].textContent = text;
      return this.hidden.has(c.label) ? "" : `${c.label} ${text}`;
    });
    const where = known(place) ? `${this.spec.axis} ${this.spec.view === "tokens" ? Math.round(place).toLocaleString("en").replaceAll(",", "\u202f") : say(place)}` : "";
    this.where.textContent = where + (known(idx) ? "" : ", the last") + this.note;
    const [a, b] = [u.data[0][0] ?? 0, u.data[0][last] ?? 0];
    for (const [key, value] of Object.entries({ label: `${this.spec.title} against ${this.spec.axis}`, valuemin: a, valuemax: b, valuenow: place ?? a, valuetext: `${where}: ${texts.filter(Boolean).join("; ")}` })) this.host.setAttribute(`aria-${key}`, value);
  }

  /** Puts the cursor on a point of the table; null takes it away. */
  point(index) {
    const u = this.plot;
    if (index === null) return u.setCursor({ left: -10, top: -10 });
    const at = Math.max(0, Math.min(u.data[0].length - 1, index));
    const x = u.data[0][at];
    if (x < this.window[0] || x > this.window[1]) {
      const half = (this.window[1] - this.window[0]) / 2;
      this.show(x - half, x + half);
    }
    u.setCursor({ left: u.valToPos(x, "x"), top: u.over.clientHeight / 2 });
  }

  zoomed() { return this.window[0] > this.bounds[0] || this.window[1] < this.bounds[1]; }

  /** Shows a part of the x axis, here and in the other charts that have it. */
  show(low, high) {
    const width = Math.min(high - low, this.bounds[1] - this.bounds[0]);
    low = Math.max(this.bounds[0], Math.min(low, this.bounds[1] - width));
    const all = width >= this.bounds[1] - this.bounds[0];
    for (const chart of charts.drawn.values()) {
      if (chart.axis !== this.axis) continue;
      chart.window = all ? chart.bounds : [low, low + width];
      chart.plot.setScale("x", { min: chart.window[0], max: chart.window[1] });
    }
  }

  /** A part was marked with the mouse. */
  dragged(u) {
    const { left, width } = u.select;
    if (width < 4) return;
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.show(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
  }

  /** Makes the window `factor` as wide, around the cursor if there is one. */
  zoom(factor) {
    const u = this.plot;
    const [low, high] = this.window;
    const centre = known(u.cursor.idx) ? u.data[0][u.cursor.idx] : (low + high) / 2;
    const least = (this.bounds[1] - this.bounds[0]) / Math.max(4, u.data[0].length);
    const half = Math.max(least, ((high - low) * factor) / 2);
    this.show(centre - half, centre + half);
  }

  all() { this.show(...this.bounds); }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const u = this.plot;
    const at = u.cursor.idx ?? u.data[0].length - 1;
    const far = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: at - far, ArrowDown: at - far, ArrowRight: at + far, ArrowUp: at + far, PageDown: at - 10, PageUp: at + 10, Home: 0, End: u.data[0].length - 1 };
    if (event.key in moves) this.point(moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(0.5);
    else if (event.key === "-") this.zoom(2);
    else if (event.key === "0") this.all();
    else if (event.key === "Escape") this.point(null);
    else return;
    event.preventDefault();
  }

  remove() {
    this.size.disconnect();
    this.plot.destroy();
    for (const node of [this.legend, this.host, this.tools]) node.remove();
    this.figure.classList.remove("drawn");
  }
}

/** The place of the known value that is nearest to `index`; null where none is known. */
function nearest(values, index) {
  if (index === null || !values) return null;
  for (let d = 0; index - d >= 0 || index + d < values.length; d++) {
    if (known(values[index - d])) return index - d;
    if (known(values[index + d])) return index + d;
  }
  return null;
}

const charts = {
  drawn: new Map(), // figure -> Chart
  data: null,

  start(data) {
    this.data = data;
    // A comparison has dozens: each is drawn when it is about to come into sight.
    this.watch = new IntersectionObserver((seen) => seen.forEach((s) => s.isIntersecting && this.draw(s.target)), { rootMargin: "500px" });
    this.find();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const chart of this.drawn.values()) chart.draw(chart.table()), chart.tell();
    });
  },

  find() {
    for (const figure of document.querySelectorAll("figure")) if (!this.drawn.has(figure) && this.data.charts[figure.id]) this.watch.observe(figure);
  },

  /** The part of an axis that the charts show, if one of them is zoomed. */
  window(axis) {
    for (const chart of this.drawn.values()) if (chart.axis === axis && chart.zoomed()) return chart.window;
    return null;
  },

  draw(figure) {
    if (!this.drawn.has(figure) && this.data.charts[figure.id]) this.drawn.set(figure, new Chart(figure, this.data.charts[figure.id], this.data.runs));
  },

  /** Takes newer numbers of the same runs. */
  take(data) {
    this.data = data;
    for (const [figure, chart] of this.drawn) {
      if (figure.isConnected && data.charts[figure.id]) chart.take(data.charts[figure.id], data.runs);
      else { chart.remove(); this.drawn.delete(figure); this.watch.unobserve(figure); }
    }
    this.find();
  },
};

charts.start(JSON.parse(document.getElementById("numbers").textContent));
