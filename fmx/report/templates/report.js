"use strict";
(() => {
  const root = document.documentElement;
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);
  const layers = [...document.querySelectorAll("article.layer")];
  const links = [...document.querySelectorAll(".layer-list a")];

  // A page from disk may not be allowed to keep anything.
  const kept = {
    get: () => { try { return localStorage.getItem("fmx-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("fmx-theme", value); } catch { /* next time as the system says */ } },
  };
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const themed = kept.get();
  if (themed === "dark" || themed === "light") root.dataset.theme = themed;
  const turn = () => { root.dataset.theme = dark() ? "light" : "dark"; kept.set(root.dataset.theme); };
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", turn);

  // The layer that the page is on its way to: keys that are pressed quickly go on from there.
  let heading = -1;
  const settle = () => { heading = -1; };
  const tells = "onscrollend" in window;
  if (tells) addEventListener("scrollend", settle);

  // What lies in something folded up is unfolded when it is gone to.
  let gone = "";
  const go = (id) => {
    const target = document.getElementById(id);
    if (!target) return false;
    gone = id;
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    if (location.hash !== `#${id}`) location.hash = id; else target.scrollIntoView();
    target.focus({ preventScroll: true });
    heading = layers.findIndex((one) => one.contains(target));
    if (!tells) setTimeout(settle, 800);
    return true;
  };
  // The browser tells of a new address a little later, when the focus may be elsewhere again.
  const follow = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    if (id && id !== gone) go(id);
  };
  addEventListener("hashchange", follow);

  // The layer at hand: the last one whose top is above the middle of the window.
  const current = () => {
    let at = -1;
    layers.forEach((one, i) => { if (one.getBoundingClientRect().top < innerHeight / 2) at = i; });
    return at;
  };
  let waiting = false;
  const mark = () => {
    waiting = false;
    const at = current();
    links.forEach((link, i) => { if (i === at) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
  };
  addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(mark); } }, { passive: true });
  const step = (by) => {
    const next = Math.min(Math.max((heading < 0 ? current() : heading) + by, 0), layers.length - 1);
    if (layers[next]) go(layers[next].id);
  };

  const jump = document.getElementById("jump");
  const find = document.getElementById("find");
  const said = document.getElementById("jump-said");
  jump.hidden = false;
  const named = (text) => links.find((a) => a.dataset.name === text) ?? links.find((a) => a.dataset.name.includes(text));
  jump.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = find.value.trim();
    const parts = /^(.*):(\d+)$/.exec(text);
    const whole = links.find((a) => a.dataset.name === text);
    const link = whole ?? named(parts ? parts[1] : text);
    if (!text || !link) { said.textContent = text ? "No layer has this name." : ""; return; }
    const id = link.getAttribute("href").slice(1);
    const channel = !whole && parts ? `${id}-channel-${Number(parts[2])}` : id;
    said.textContent = go(channel) ? "" : "This channel is not listed.";
  });
  find.addEventListener("input", () => {
    const text = find.value.trim().replace(/:\d*$/, "");
    links.forEach((a) => { a.parentElement.hidden = !a.dataset.name.includes(text); });
    said.textContent = "";
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(input|textarea|select)$/i.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const keys = { j: () => step(1), k: () => step(-1), t: () => go("layers"), d: turn,
      "/": () => { document.querySelector(".contents").open = true; find.focus(); } };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  // Maps of a grid say which channel they are, and lead to it.
  each(".paper[data-channels]", (paper) => {
    const picture = paper.querySelector("img");
    const told = paper.parentElement.querySelector("output");
    const channels = paper.dataset.channels.split(" ");
    const columns = Number(paper.dataset.columns);
    const rows = Math.ceil(channels.length / columns);
    const at = (event) => {
      const box = picture.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left) / box.width * columns);
      const row = Math.floor((event.clientY - box.top) / box.height * rows);
      return column >= 0 && column < columns && row >= 0 ? channels[row * columns + column] : undefined;
    };
    paper.addEventListener("pointermove", (event) => { const one = at(event); told.textContent = one === undefined ? "" : `channel ${one}`; });
    paper.addEventListener("pointerleave", () => { told.textContent = ""; });
    paper.addEventListener("click", (event) => { const one = at(event); if (one !== undefined) go(`${paper.dataset.layer}-channel-${one}`); });
  });

  each("table.sortable thead th", (head, index) => {
    const column = [...head.parentElement.children].indexOf(head);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const body = head.closest("table").tBodies[0];
      const down = head.getAttribute("aria-sort") !== "descending";
      each("th[aria-sort]", (other) => { if (other.closest("table") === head.closest("table")) other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => { const text = row.children[column].textContent; const n = parseFloat(text); return Number.isNaN(n) ? text : n; };
      const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      [...body.rows].sort((a, b) => (down ? -1 : 1) * order(value(a), value(b))).forEach((row) => body.append(row));
    });
  });

  // On a phone the contents are folded up until they are asked for.
  if (matchMedia("screen and (max-width: 900px)").matches) document.querySelector(".contents").open = false;
  follow();
  mark();
})();
