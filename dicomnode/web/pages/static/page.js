// The page's one script. Everything up to the hits works without it; here are zoom, drawing, the window and the keys.
"use strict";

const one = (selector, inside = document) => inside.querySelector(selector);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// --- keys of every page ---------------------------------------------------------------------------------------

const keys = {};

function go(link) {
  if (link) link.click();
}

function step(by) {
  const links = all("[data-step]");
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : links.length - 1) : clamp(at + by, 0, links.length - 1);
  links[next].focus();
  links[next].scrollIntoView({ block: "nearest" });
}

function help() {
  const dialog = one("#keys");
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

keys["?"] = help;
keys.j = () => step(1);
keys.k = () => step(-1);
keys.u = () => go(one("[data-up]"));
keys["/"] = () => one("[data-search]")?.focus();
keys.y = () => go(document.getElementById(document.activeElement?.dataset.why || ""));
keys[","] = () => go(one("a[rel=prev]"));
keys["."] = () => go(one("a[rel=next]"));
keys.m = () => go(document.getElementById(document.activeElement?.dataset.more || ""));

function typing(target) {
  return target.matches?.("input:not([type=checkbox]):not([type=range]), select, textarea");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || typing(event.target)) return;
  if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (one("#keys").open && key !== "?") return;
  if (keys[key]?.(event) !== false && keys[key]) event.preventDefault();
});

const helpButton = one("#help");
helpButton.hidden = false;
helpButton.addEventListener("click", help);

// Empty filters say nothing: they are left out of the URL.
for (const form of all("form[method=get]")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && field.value === "") field.disabled = true;
  });
}
window.addEventListener("pageshow", () => all("form :disabled[name]").forEach((field) => (field.disabled = false)));

// --- why a hit is one: the page behind the link, laid over the pictures that are here already ------------------

let shown = null; // the link whose overlays are seen

function lay(svg, told) {
  const image = document.createElementNS("http://www.w3.org/2000/svg", "image");
  const [x1, y1, x2, y2] = told.box;
  const at = { class: "heat", href: told.picture, x: x1, y: y1, width: x2 - x1, height: y2 - y1, preserveAspectRatio: "none" };
  for (const name in at) image.setAttribute(name, at[name]);
  one("image", svg).after(image);
}

function hideWhy() {
  for (const image of all(".hits .heat, .question .heat")) image.remove();
  if (shown) shown.textContent = "Why?";
  shown?.removeAttribute("aria-expanded");
  shown = null;
  one("#heat").hidden = true;
}

async function fetchSide(link, side) {
  const answer = await fetch(link.href.replace("/why?", "/why/map?") + `&side=${side}`);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail);
  return told;
}

async function showWhy(link) {
  hideWhy();
  shown = link;
  link.textContent = "Hide why";
  link.setAttribute("aria-expanded", "true");
  one("#heat").hidden = false;
  one("#heat-rank").textContent = link.dataset.rank;
  one("#heat-said").textContent = "Covering parts of both regions …";
  const svgs = { asked: one(".question svg"), found: one("svg", link.closest("figure")) };
  const said = [];
  try {
    for (const side in svgs) {
      const told = await fetchSide(link, side);
      if (shown !== link) return;
      lay(svgs[side], told);
      said.push(`${side === "asked" ? "Asked" : "Found"}: ${told.words}`);
      one("#heat-said").textContent = said.join(" ");
    }
  } catch (error) {
    if (shown === link) one("#heat-said").textContent = `Not explained: ${error.message}`;
  }
}

for (const link of all("a.why")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (shown === link) hideWhy();
    else showWhy(link);
  });
}

// --- the film -------------------------------------------------------------------------------------------------

const film = one("#film");
if (film) showFilm(film);

function showFilm(svg) {
  const width = Number(svg.dataset.width);
  const height = Number(svg.dataset.height);
  const closest = Math.max(width, height) / 40; // the least side of what is seen
  const view = { x: 0, y: 0, width, height };
  const drawn = one("#drawn");
  const ask = one("#ask");
  const said = one("#said");
  let box = null;
  let isDrawing = false;

  one("#tools").hidden = false;
  one("#windowing").hidden = false;

  function show() {
    view.x = clamp(view.x, -view.width / 2, width - view.width / 2);
    view.y = clamp(view.y, -view.height / 2, height - view.height / 2);
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  }

  function place(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return { x: at.x, y: at.y };
  }

  function zoom(factor, at = { x: view.x + view.width / 2, y: view.y + view.height / 2 }) {
    const by = clamp(factor, closest / Math.min(view.width, view.height), (2 * width) / view.width);
    view.x = at.x - (at.x - view.x) * by;
    view.y = at.y - (at.y - view.y) * by;
    view.width *= by;
    view.height *= by;
    show();
  }

  function fit() {
    Object.assign(view, { x: 0, y: 0, width, height });
    show();
  }

  function move(right, down) {
    view.x += (right * view.width) / 10;
    view.y += (down * view.height) / 10;
    show();
  }

  // The rectangle, in pixels of the stored image.

  function draw(from, to) {
    box = {
      x1: clamp(Math.min(from.x, to.x), 0, width),
      y1: clamp(Math.min(from.y, to.y), 0, height),
      x2: clamp(Math.max(from.x, to.x), 0, width),
      y2: clamp(Math.max(from.y, to.y), 0, height),
    };
    const at = { x: box.x1, y: box.y1, width: box.x2 - box.x1, height: box.y2 - box.y1 };
    for (const rect of drawn.children) for (const name in at) rect.setAttribute(name, at[name]);
    drawn.setAttribute("visibility", "visible");
    svg.classList.add("marking");
  }

  function clear() {
    box = null;
    drawn.setAttribute("visibility", "hidden");
    svg.classList.remove("marking");
    ask.hidden = one("#clear").hidden = true;
    said.textContent = "";
  }

  function offer() {
    if (!box || box.x2 - box.x1 < 4 || box.y2 - box.y1 < 4) {
      clear();
      return;
    }
    const corners = Object.entries(box).map(([name, value]) => [name, value.toFixed(1)]);
    const frame = svg.dataset.frame === "1" ? [] : [["frame", svg.dataset.frame]];
    ask.href = "/hits?" + new URLSearchParams([["image", svg.dataset.image], ...frame, ...corners]);
    ask.hidden = one("#clear").hidden = false;
    for (const [name, value] of corners) one(`#${name}`).value = value;
    said.textContent = `${Math.round(box.x2 - box.x1)} × ${Math.round(box.y2 - box.y1)} pixels`;
    ask.focus();
  }

  function setDrawing(on) {
    isDrawing = on;
    one("#draw").setAttribute("aria-pressed", String(on));
    svg.classList.toggle("drawing", on);
    said.textContent = on ? "Drag a rectangle on the film" : said.textContent;
  }

  // The window: a linear function of what the server rendered.

  const brightness = one("#brightness");
  const contrast = one("#contrast");
  const invert = one("#invert");

  function setWindow() {
    const gain = 2 ** (contrast.value / 40) * (invert.checked ? -1 : 1);
    const offset = 0.5 - gain * 0.5 + brightness.value / 150;
    for (const part of one("#window feComponentTransfer").children) {
      part.setAttribute("slope", gain);
      part.setAttribute("intercept", offset);
    }
    const isPlain = gain === 1 && brightness.value === "0";
    if (isPlain) one("#picture").removeAttribute("filter");
    else one("#picture").setAttribute("filter", "url(#window)");
  }

  function change(slider, by) {
    slider.value = Number(slider.value) + by;
    setWindow();
  }

  for (const input of [brightness, contrast, invert]) input.addEventListener("input", setWindow);

  // The pointer: drag moves, Shift or the tool draws, Alt or the right button changes the window.

  const actions = {
    draw: (start, event) => draw(start.at, place(event)),
    window: (start, event) => {
      contrast.value = start.contrast + (event.clientX - start.x) / 3;
      brightness.value = start.brightness - (event.clientY - start.y) / 3;
      setWindow();
    },
    move: (start, event) => {
      const scale = 1 / svg.getScreenCTM().a;
      view.x = start.viewX - (event.clientX - start.x) * scale;
      view.y = start.viewY - (event.clientY - start.y) * scale;
      show();
    },
  };
  let start = null;
  let dragged = false;

  function actionOf(event) {
    if (event.shiftKey || (isDrawing && event.button === 0 && !event.altKey)) return "draw";
    return event.altKey || event.button === 2 ? "window" : "move";
  }

  svg.addEventListener("pointerdown", (event) => {
    if (event.button === 1) return;
    start = {
      action: actionOf(event),
      at: place(event),
      x: event.clientX,
      y: event.clientY,
      viewX: view.x,
      viewY: view.y,
      brightness: Number(brightness.value),
      contrast: Number(contrast.value),
      moved: false,
    };
    if (start.action === "draw") event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (!start) return;
    if (!start.moved && Math.hypot(event.clientX - start.x, event.clientY - start.y) < 4) return;
    if (!start.moved) svg.setPointerCapture(event.pointerId);
    start.moved = true;
    actions[start.action](start, event);
  });
  svg.addEventListener("pointerup", () => {
    if (start?.moved && start.action === "draw") {
      setDrawing(false);
      offer();
    }
    dragged = Boolean(start?.moved);
    start = null;
  });
  svg.addEventListener("pointercancel", () => (start = null));
  // A drag that ends on a region is no click on it.
  svg.addEventListener("click", (event) => dragged && event.detail && event.preventDefault(), true);
  svg.addEventListener("dragstart", (event) => event.preventDefault());
  svg.addEventListener("contextmenu", (event) => event.preventDefault());
  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(2 ** (clamp(event.deltaY, -100, 100) / 250), place(event));
    },
    { passive: false },
  );

  one("#draw").addEventListener("click", () => setDrawing(!isDrawing));
  one("#fit").addEventListener("click", fit);
  one("#clear").addEventListener("click", clear);

  Object.assign(keys, {
    d: () => setDrawing(!isDrawing),
    r: () => one("#regions").click(),
    "+": () => zoom(0.8),
    "=": () => zoom(0.8),
    "-": () => zoom(1.25),
    0: fit,
    i: () => {
      invert.checked = !invert.checked;
      setWindow();
    },
    w: () => {
      brightness.value = contrast.value = 0;
      invert.checked = false;
      setWindow();
    },
    "[": () => change(brightness, -5),
    "]": () => change(brightness, 5),
    "{": () => change(contrast, -5),
    "}": () => change(contrast, 5),
    ArrowLeft: () => move(-1, 0),
    ArrowRight: () => move(1, 0),
    ArrowUp: () => move(0, -1),
    ArrowDown: () => move(0, 1),
    Enter: () => {
      if (!box || document.activeElement?.matches("a, button, summary")) return false;
      go(ask);
    },
    Escape: () => {
      setDrawing(false);
      clear();
    },
  });

  // A region of the list and its box on the film are one.

  const labels = new Map(all(".regions a").map((link) => [one("text", link).textContent, link]));
  for (const link of all(".list a")) {
    const region = labels.get(link.dataset.name);
    const mark = (on) => region?.classList.toggle("near", on);
    for (const name of ["pointerenter", "focus"]) link.addEventListener(name, () => mark(true));
    for (const name of ["pointerleave", "blur"]) link.addEventListener(name, () => mark(false));
  }
  window.addEventListener("pageshow", setWindow);
}
