"use strict";
// Follows the trees of a run in progress. The list is loaded anew when there are more trees; an open tree stays until
// the reader goes back to the list, or asks for the new ones. The address holds what is shown, so nothing is lost.
(() => {
  const mine = document.querySelector("meta[name=version]").content;
  const atRest = () => !/[#&]tree=/.test(location.hash) && !document.querySelector("input[type=search]")?.value && !document.querySelector("dialog[open]");
  let newer = false;

  const note = document.createElement("button");
  note.type = "button";
  note.id = "newer";
  note.textContent = "New trees: show them";
  Object.assign(note.style, { position: "fixed", right: "16px", bottom: "16px", zIndex: "9", padding: "8px 14px", font: "14px system-ui, sans-serif" });
  note.addEventListener("click", () => location.reload());

  function look() {
    if (!newer) return;
    if (atRest()) location.reload();
    else document.body.append(note);
  }

  async function ask() {
    try {
      const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
      const version = answer.headers.get("ETag")?.replaceAll('"', "");
      newer = answer.ok && Boolean(version) && version !== mine;
      look();
    } catch { /* the server is gone: the trees stay as they are */ }
    setTimeout(ask, document.hidden ? 20000 : 3000);
  }

  addEventListener("hashchange", look);
  setTimeout(ask, 3000);
})();
