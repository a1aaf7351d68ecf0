"use strict";
// Follows a run in progress: asks the server for this page again and again, and puts what is new into place. Whatever
// holds the focus or a selection stays as it is until the reader has left it.

const live = {
  every: 2000,
  version: document.querySelector("meta[name=version]").content,
  changed: Date.now(),
  lost: false,
  parts: new Map(), // name -> its HTML as the server last sent it

  start() {
    for (const part of document.querySelectorAll("[data-part]")) this.parts.set(part.dataset.part, part.innerHTML);
    setInterval(() => this.clock(), 1000);
    document.addEventListener("visibilitychange", () => document.hidden || this.soon(0));
    this.soon(this.every);
  },

  soon(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), wait);
  },

  async ask() {
    if (this.asking) return;
    this.asking = true;
    try {
      const answer = await fetch(location.pathname, { headers: { "If-None-Match": `"${this.version}"` }, cache: "no-store" });
      if (answer.status === 200) this.take(await answer.text());
      else if (answer.status !== 304) throw new Error(answer.status);
      else this.settle();
      this.lost = false;
    } catch {
      this.lost = true;
    }
    this.asking = false;
    this.clock();
    this.soon(document.hidden ? 10 * this.every : this.every); // nobody looks: seldom
  },

  take(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    this.version = fresh.querySelector("meta[name=version]").content;
    this.changed = Date.now();
    this.waiting = [...fresh.querySelectorAll("[data-part]")];
    this.settle();
    const figures = document.querySelector(".figures");
    let before = null;
    for (const figure of fresh.querySelectorAll(".figures > figure")) {
      const old = document.getElementById(figure.id);
      if (old) before = old;
      else {
        const added = document.adoptNode(figure);
        if (before) before.after(added); else figures.prepend(added);
        before = added;
      }
    }
    document.getElementById("curves").closest("section").hidden = !figures.children.length;
    charts.take(JSON.parse(fresh.getElementById("numbers").textContent));
  },

  /** Puts the parts that differ into place; those that the reader is at wait for the next time. */
  settle() {
    const selection = getSelection();
    this.waiting = (this.waiting ?? []).filter((part) => {
      const name = part.dataset.part;
      const old = document.querySelector(`[data-part="${name}"]`);
      const html = part.innerHTML;
      if (!old || this.parts.get(name) === html) return false;
      if (old.contains(document.activeElement) || (!selection.isCollapsed && selection.containsNode(old, true))) return true;
      const open = new Set([...old.querySelectorAll("details[open]")].map((d) => d.querySelector("summary").textContent));
      old.replaceChildren(...[...part.cloneNode(true).childNodes].map((n) => document.adoptNode(n)));
      for (const d of old.querySelectorAll("details")) if (open.has(d.querySelector("summary").textContent)) d.open = true;
      this.parts.set(name, html);
      return false;
    });
  },

  clock() {
    const bar = document.getElementById("live");
    const seconds = Math.round((Date.now() - this.changed) / 1000);
    const ago = seconds < 100 ? `${seconds} s` : seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
    bar.querySelector("#ago").textContent = `Last change ${ago} ago.`;
    const words = this.lost ? "The server does not answer: this is the run as it was." : "";
    const state = bar.querySelector("[role=status]");
    if (state.textContent !== words) state.textContent = words;
    bar.classList.toggle("gone", this.lost);
  },
};

live.start();
