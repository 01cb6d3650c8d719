"use strict";

// What the page shows: the data, and the state that the address, the filters and the keys change.
const data = JSON.parse(document.getElementById("data").textContent);
const { about, sources, scale, episodes } = data;
const state = {
  shown: [], current: -1, step: null, by: 0,
  whole: about.levels.every((level) => level === "step"), // V of steps says nothing of the tokens within
};

const MARKS = { right: "✓", wrong: "✗", undecided: "?", truncated: "…" };
const ROW = 54; // height of a row of the list, in px
const FULL = 0.6; // opacity of a change of `scale` or more

const $ = (id) => document.getElementById(id);

/** Creates an element; attributes by name, `text` as its text, children after. */
function el(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "circle", "rect", "text"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") node.textContent = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A number with two decimals, three where it is small, and a true minus sign. */
function decimal(x) {
  if (x === null || x === undefined) return "–";
  const text = Math.abs(x) < 0.1 && x !== 0 ? x.toFixed(3) : x.toFixed(2);
  return text.replace(/^-(0\.0+)$/, "$1").replace("-", "−");
}

function signed(x) {
  if (x === null || x === undefined) return "";
  const text = decimal(x);
  return text.startsWith("−") ? text : "+" + text;
}

/** Background of a change: orange where V falls, blue where it rises, at full strength from `most` on. */
function colour(change, most) {
  if (change === null || change === undefined) return "";
  const alpha = (FULL * Math.min(Math.abs(change) / most, 1)).toFixed(3);
  return `background-color: rgba(var(${change < 0 ? "--down" : "--up"}), ${alpha})`;
}

// Drops: what the list filters by and the response marks.

const steps = (episode) => episode.parts.filter((part) => part.T);
const threshold = () => Math.max(Number($("threshold").value) || 0, 1e-4);

/** First step over which V of a model falls by at least the threshold, and the step of its largest fall, or null. */
function drops(episode, model) {
  let first = null, largest = null;
  for (const step of steps(episode)) {
    const change = step.C[model];
    if (change === null || change > -threshold()) continue;
    first = first ?? step;
    if (largest === null || change < largest.C[model]) largest = step;
  }
  return { first, largest };
}

/** Change of V over the step of the largest fall; 0 where V never falls. */
function fall(episode, model) {
  return Math.min(0, ...steps(episode).map((step) => step.C[model] ?? 0));
}

/** V of the last state of a response that has one. */
function finalValue(episode, model) {
  const known = [episode.V[model], ...steps(episode).filter((s) => !s.end).map((s) => s.V[model])];
  return known.filter((v) => v !== null).at(-1) ?? null;
}

// What is computed once per response, for filters and links.

const seen = new Map();
for (const [k, episode] of episodes.entries()) {
  const name = `${encodeURIComponent(episode.id)}/${episode.sample}`;
  const times = (seen.get(name) ?? 0) + 1;
  seen.set(name, times);
  episode.k = k;
  episode.name = times === 1 ? name : `${name}~${times}`;
  const said = episode.parts.map((part) => part.t ?? part.T.join(""));
  episode.text = [episode.id, ...episode.prompt.map((m) => m[1]), ...said].join("\n").toLowerCase();
  episode.falls = about.models.map((_, model) => fall(episode, model));
  episode.isFalse = steps(episode).some((step) => step.false);
}
const byName = new Map(episodes.map((episode) => [episode.name, episode]));

// The list.

const SORTS = {
  "as in the file": (a, b) => a.k - b.k,
  "largest drop": (a, b) => a.falls[state.by] - b.falls[state.by] || a.k - b.k,
  "V at the end": (a, b) => (finalValue(a, state.by) ?? 9) - (finalValue(b, state.by) ?? 9) || a.k - b.k,
  "V of the prompt": (a, b) => (a.V[state.by] ?? 9) - (b.V[state.by] ?? 9) || a.k - b.k,
  "length": (a, b) => a.text.length - b.text.length || a.k - b.k,
};

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdicts = new Set([...document.querySelectorAll("#verdicts [aria-pressed=true]")].map((b) => b.value));
  const source = $("source").value === "" ? null : Number($("source").value);
  const [needsDrop, needsFalse, least] = [$("dropped").checked, $("false-only").checked, threshold()];
  state.shown = episodes.filter((e) =>
    (verdicts.size === 0 || verdicts.has(e.verdict)) &&
    (source === null || e.source === source) &&
    (!needsDrop || e.falls[state.by] <= -least) &&
    (!needsFalse || e.isFalse) &&
    words.every((word) => e.text.includes(word)));
  if ($("sort").value !== "as in the file") state.shown.sort(SORTS[$("sort").value]);
  const count = state.shown.length;
  $("shown").textContent = `${count.toLocaleString("en")} of ${episodes.length.toLocaleString("en")} responses`;
  $("sizer").style.height = `${count * ROW}px`;
  $("list").scrollTop = 0;
  drawRows();
}

/** Draws the rows of the list that are in sight. */
function drawRows() {
  const first = Math.max(0, Math.floor($("list").scrollTop / ROW) - 4);
  const rows = state.shown.slice(first, first + Math.ceil($("list").clientHeight / ROW) + 8);
  $("rows").style.transform = `translateY(${first * ROW}px)`;
  $("rows").replaceChildren(...rows.map(row));
}

function row(episode) {
  const question = episode.prompt.at(-1)?.[1] ?? "";
  const node = el("div", { class: "row", role: "option", "aria-selected": String(episode.k === state.current),
                           id: `row${episode.k}` },
    el("span", { class: episode.verdict, title: episode.verdict, text: MARKS[episode.verdict] }),
    el("span", {},
      el("span", { class: "said", text: question.trim().replace(/\s+/g, " ").slice(0, 200) }),
      el("span", { class: "id said", text: [episode.extracted, `${episode.id} · ${episode.sample}`].filter(Boolean).join(" · ") })),
    el("span", {}, sparkline(episode),
      el("span", { class: "fall", text: fallen(episode.falls[state.by]) })));
  node.addEventListener("click", () => go(episode, null, true));
  return node;
}

/** The largest fall of a response, marked where it is a drop. */
function fallen(change) {
  return change < 0 ? `${change <= -threshold() ? "▼ " : ""}${decimal(change)}` : "";
}

function sparkline(episode) {
  const values = [episode.V[state.by], ...steps(episode).map((s) => s.V[state.by])].filter((v) => v !== null);
  const across = 72 / Math.max(values.length - 1, 1);
  const path = values.map((v, k) => `${k ? "L" : "M"}${(2 + k * across).toFixed(1)} ${(22 - 20 * clip(v)).toFixed(1)}`);
  return el("svg", { viewBox: "0 0 76 24", "aria-hidden": "true" }, el("path", { class: "line m0", d: path.join("") }));
}

const clip = (v) => Math.min(Math.max(v, 0), 1);

/** Scrolls the list so that a response is in sight. */
function reveal(episode) {
  const at = state.shown.indexOf(episode) * ROW, list = $("list");
  if (at < 0) return;
  if (at < list.scrollTop) list.scrollTop = at;
  if (at + ROW > list.scrollTop + list.clientHeight) list.scrollTop = at + ROW - list.clientHeight;
}

// The response.

/** Goes to a response, or a step of it. The browser's history keeps what was clicked, not every key. */
function go(episode, step = null, clicked = false) {
  const hash = `#${episode.name}${step === null ? "" : `/${step}`}`;
  if (clicked) location.hash = hash;
  else history.replaceState(null, "", hash);
  follow();
}

/** Shows what the address names; the first response of the list if it names none. */
function follow() {
  const parts = location.hash.slice(1).split("/");
  const episode = byName.get(parts.slice(0, 2).join("/")) ?? state.shown[0] ?? episodes[0];
  state.step = parts.length > 2 ? Number(parts[2]) : null;
  if (episode.k !== state.current) show(episode);
  mark();
  reveal(episode);
  drawRows();
}

function show(episode) {
  state.current = episode.k;
  const answers = [
    episode.extracted === null ? null : el("span", {}, "answered ", el("b", { text: episode.extracted })),
    episode.answer === null ? null : el("span", {}, "expected ", el("b", { text: episode.answer })),
    el("span", { text: `reward ${episode.reward ?? "none"}` }),
  ].filter(Boolean).flatMap((node, k) => (k ? [", ", node] : [node]));
  $("episode").replaceChildren(
    el("header", {},
      el("span", { class: `verdict ${episode.verdict}`, text: `${MARKS[episode.verdict]} ${episode.verdict}` }),
      el("span", { class: "answers" }, ...answers),
      el("a", { href: `#${episode.name}`, class: "note", title: "Link to this response",
                text: `${sources[episode.source]} · ${episode.id} · ${episode.sample}` })),
    ...episode.prompt.map(([role, text]) => message("prompt", role || "problem", text)),
    curve(episode), heads(), el("ol", { class: "steps" }, ...episode.parts.map((part) => partOf(episode, part))));
  $("episode").scrollTop = 0;
}

function message(kind, role, text) {
  return el("div", { class: kind }, el("span", { class: "role", text: role }),
            el("span", { class: "mono said", text: text.trim() || "(empty)" }));
}

function heads() {
  const columns = about.models.map((name) => el("div", { class: "model" }, el("span", { text: `ΔV of ${name}` }),
                                                el("span", { class: "numbers", text: "V after · change" })));
  return el("div", { class: "step heads" }, el("span"), models(columns));
}

function models(columns) {
  return el("div", { class: "models", style: `--models: ${about.models.length}` }, ...columns);
}

function partOf(episode, part) {
  if (!part.T) return el("li", {}, message("observation", part.o, part.t));
  const columns = about.models.map((_, model) => stepOf(episode, part, model));
  return el("li", { class: `step${part.end ? " ended" : ""}`, id: `step${part.n}`, tabindex: "-1", "data-step": part.n },
    el("a", { href: `#${episode.name}/${part.n}`, title: "Link to this step", text: part.n }), models(columns));
}

/** A step in the colours of one value model: its tokens, its marks and its numbers. */
function stepOf(episode, part, model) {
  const { first, largest } = drops(episode, model);
  const text = el("span", { class: "mono said", style: state.whole ? colour(part.C[model], scale.step) : null });
  for (const [k, token] of part.T.entries()) {
    const change = part.c[model][k];
    const fell = !state.whole && change !== null && change <= -scale.token / 2;
    const blank = token.trim() === "", isLast = k === part.T.length - 1;
    text.append(el("span", { class: `tok${fell ? " fell" : ""}${blank ? " blank" : ""}`, "data-k": k, "data-m": model,
                             style: state.whole ? null : colour(change ?? (k === 0 ? part.C[model] : null), scale.token),
                             text: token.replace(/\n/g, (_, at) => (isLast && at === token.length - 1 ? "↵" : "↵\n")) }));
  }
  const marks = el("span", {});
  if (part === first && part === largest) marks.append(drop("▼ first and largest drop"));
  else if (part === first) marks.append(drop("▼ first drop"));
  else if (part === largest) marks.append(drop("▼▼ largest drop"));
  if (part.false) marks.append(el("span", { class: "mark false", text: "✗ false equation" }));
  if (part.w !== null) marks.append(el("span", { class: "mark", text: `step reward ${part.w}` }));
  if (part.g !== null) marks.append(el("span", { class: "mark", text: `Σρ ${signed(part.g)}, KL ${decimal(part.k)}` }));
  if (part.end) marks.append(el("span", { class: "mark", text: "end" }));
  return el("div", { class: "model" }, el("span", { class: "mono" }, text, " ", marks),
    el("span", { class: "numbers" }, part.V[model] === null ? "" : el("b", { text: decimal(part.V[model]) }),
       ` ${signed(part.C[model])}`));
}

const drop = (text) => el("span", { class: "mark drop", text });

/** Marks the step that the address names, and scrolls to it. */
function mark() {
  for (const node of document.querySelectorAll(".step.current")) node.classList.remove("current");
  const node = state.step === null ? null : $(`step${state.step}`);
  if (node) {
    node.classList.add("current");
    node.scrollIntoView({ block: "nearest" });
  }
}

// The curve of V.

/** The states of a response in order: V per model, the step that begins there, the token after it. */
function states(episode) {
  const found = [];
  for (const part of episode.parts) {
    if (!part.T) { found.push({ observation: true }); continue; }
    for (let k = 0; k < part.T.length; k++) {
      found.push({ part, k, value: part.v.map((column) => column[k]) });
    }
  }
  return found;
}

function curve(episode) {
  const points = states(episode), width = 1000, height = 150;
  const known = points.flatMap((p) => p.value ?? []).filter((v) => v !== null);
  const [low, high] = [Math.min(0, ...known), Math.max(1, ...known)];
  const x = (k) => 34 + ((width - 44) * k) / Math.max(points.length - 1, 1);
  const y = (v) => 12 + ((height - 34) * (high - v)) / (high - low);
  const frame = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
                            "aria-label": `V over the tokens, from ${decimal(known[0])} to ${decimal(known.at(-1))}` });
  for (const v of new Set([low, 0.5, high])) {
    frame.append(el("line", { class: "axis", x1: 34, x2: width - 10, y1: y(v), y2: y(v) }),
                 el("text", { x: 28, y: y(v) + 4, "text-anchor": "end", text: decimal(v) }));
  }
  let labelled = -Infinity;
  for (const [k, point] of points.entries()) {
    if (point.observation) frame.append(el("rect", { class: "observed", x: x(k) - 3, width: 6, y: 12, height: height - 34 }));
    if (point.k !== 0) continue;
    frame.append(el("line", { class: "stepline", x1: x(k), x2: x(k), y1: 12, y2: height - 22 }));
    if (x(k) - labelled > 22) {
      frame.append(el("text", { x: x(k), y: height - 6, "text-anchor": "middle", text: point.part.n }));
      labelled = x(k);
    }
  }
  for (const [model] of about.models.entries()) frame.append(...line(episode, points, model, x, y));
  frame.append(el("line", { id: "cursor", y1: 12, y2: height - 22, visibility: "hidden" }));
  frame.addEventListener("mousemove", (event) => hoverCurve(event, frame, points, x));
  frame.addEventListener("mouseleave", unhover);
  frame.addEventListener("click", (event) => {
    const point = points[nearest(event, frame, points, x)];
    if (point.part) go(episode, point.part.n, true);
  });
  curve.points = points;
  curve.x = x;
  return el("figure", { class: "curve" }, frame, key());
}

/** The line of V of one model, its dots at the starts of steps, and the marks of its drops. */
function line(episode, points, model, x, y) {
  const nodes = [], path = [];
  const { first, largest } = drops(episode, model);
  for (const [k, point] of points.entries()) {
    const value = point.value?.[model] ?? null;
    if (value === null) continue;
    path.push(`${path.length ? "L" : "M"}${x(k).toFixed(1)} ${y(value).toFixed(1)}`);
    if (point.k === 0) nodes.push(el("circle", { class: `dot m${model % 4}`, cx: x(k), cy: y(value), r: 3.5 }));
    if (point.k === 0 && (point.part === first || point.part === largest) && model === state.by) {
      const text = point.part === largest && point.part !== first ? "▼▼" : "▼";
      nodes.push(el("text", { class: "marker", x: x(k) + 4, y: Math.max(y(value) - 6, 11), text }));
    }
  }
  return [el("path", { class: `line m${model % 4}`, d: path.join("") }), ...nodes];
}

function key() {
  const lines = about.models.map((name, model) => el("span", {},
    el("svg", { viewBox: "0 0 32 10" }, el("path", { class: `line m${model % 4}`, d: "M0 5L32 5" })), `V of ${name}`));
  const most = decimal(state.whole ? scale.step : scale.token);
  const what = state.whole ? "change of V over a step" : "change of V over a token";
  const toggle = el("button", { type: "button", id: "colours", title: "Colour tokens or whole steps (c)",
                                text: state.whole ? "colour tokens" : "colour steps" });
  toggle.addEventListener("click", toggleColours);
  return el("figcaption", { class: "key" }, ...lines,
    el("span", { class: "scale" }, `−${most}`, el("i"), `+${most}`, ` ${what}`), toggle);
}

// Hovering.

function nearest(event, frame, points, x) {
  const box = frame.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * 1000;
  const k = Math.round(((at - x(0)) / Math.max(x(points.length - 1) - x(0), 1)) * (points.length - 1));
  return Math.min(Math.max(k, 0), points.length - 1);
}

function hoverCurve(event, frame, points, x) {
  const point = points[nearest(event, frame, points, x)];
  if (point.part) hover(point.part, point.k, event.clientX, event.clientY);
}

/** Shows the numbers of a token, and where it is in the text and on the curve. */
function hover(part, k, left, top) {
  unhover();
  for (const node of $(`step${part.n}`)?.querySelectorAll(`.tok[data-k="${k}"]`) ?? []) node.classList.add("here");
  const at = curve.points.findIndex((point) => point.part === part && point.k === k);
  const cursor = $("cursor");
  cursor.setAttribute("x1", curve.x(at));
  cursor.setAttribute("x2", curve.x(at));
  cursor.setAttribute("visibility", "visible");
  const tip = $("tip");
  tip.textContent = told(part, k);
  tip.hidden = false;
  tip.style.left = `${Math.max(4, Math.min(left + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${top + 18 + tip.offsetHeight > innerHeight ? top - tip.offsetHeight - 10 : top + 18}px`;
}

function told(part, k) {
  const lines = [`step ${part.n}, token ${k + 1} of ${part.T.length}: ${JSON.stringify(part.T[k])}`];
  for (const [model, name] of about.models.entries()) {
    const value = part.v[model][k], change = part.c[model][k];
    const own = about.models.length > 1 ? ` (${name})` : "";
    if (value !== null) lines.push(`V ${decimal(value)}${change === null ? "" : `, ΔV ${signed(change)}`}${own}`);
  }
  if (part.G.length) lines.push(`ρ ${signed(part.G[k])}, KL ${decimal(part.K[k])}`);
  const whole = part.C.map((change) => signed(change) || "–").join(", ");
  lines.push(`whole step: ΔV ${whole}${part.g === null ? "" : `, Σρ ${signed(part.g)}, KL ${decimal(part.k)}`}`);
  return lines.join("\n");
}

function unhover() {
  $("tip").hidden = true;
  $("cursor")?.setAttribute("visibility", "hidden");
  for (const node of document.querySelectorAll(".tok.here")) node.classList.remove("here");
}

// Keys.

/** Moves to another response of the list, or to another step of the response. */
function move(by) {
  const at = state.shown.indexOf(episodes[state.current]);
  const next = state.shown[at < 0 ? 0 : at + by];
  if (next) go(next);
}

function moveStep(by) {
  const numbers = steps(episodes[state.current]).map((step) => step.n);
  const at = state.step === null ? (by > 0 ? -1 : numbers.length) : numbers.indexOf(state.step);
  const next = numbers[at + by];
  if (next !== undefined) go(episodes[state.current], next);
}

/** Goes to the first drop; from there to the largest one. */
function moveToDrop() {
  const { first, largest } = drops(episodes[state.current], state.by);
  if (first) go(episodes[state.current], state.step === first.n ? largest.n : first.n);
}

function toggleColours() {
  state.whole = !state.whole;
  redraw();
}

function toggleTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
}

const KEYS = {
  j: () => move(1), k: () => move(-1), n: () => moveStep(1), p: () => moveStep(-1), d: moveToDrop,
  c: toggleColours, t: toggleTheme, "?": () => $("help").showModal(), "/": () => $("search").focus(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), select");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const act = event.target.id === "list" && { ArrowDown: KEYS.j, ArrowUp: KEYS.k }[event.key] || KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// The start.

/** Draws the response again, where it is scrolled to, after a change of colours, threshold or model. */
function redraw() {
  const top = $("episode").scrollTop;
  show(episodes[state.current]);
  mark();
  $("episode").scrollTop = top;
}

function choices() {
  for (const [verdict, sign] of Object.entries(MARKS)) {
    const count = episodes.filter((e) => e.verdict === verdict).length;
    if (!count) continue;
    const button = el("button", { type: "button", value: verdict, "aria-pressed": "false",
                                  text: `${sign} ${verdict} ${count.toLocaleString("en")}` });
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      filter();
    });
    $("verdicts").append(button);
  }
  $("source").append(el("option", { value: "", text: "all" }),
                     ...sources.map((name, k) => el("option", { value: String(k), text: name })));
  $("source-label").hidden = sources.length < 2;
  $("sort").append(...Object.keys(SORTS).map((name) => el("option", { value: name, text: name })));
  $("by").append(...about.models.map((name, k) => el("option", { value: String(k), text: name })));
  $("by-label").hidden = about.models.length < 2;
  $("threshold").value = Math.max(Math.round(25 * scale.step) / 100, 0.01);
}

function listen() {
  $("search").addEventListener("input", filter);
  for (const id of ["source", "sort", "dropped", "false-only"]) $(id).addEventListener("change", filter);
  $("threshold").addEventListener("input", () => { filter(); redraw(); });
  $("by").addEventListener("change", () => { state.by = Number($("by").value); filter(); redraw(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("list").addEventListener("scroll", drawRows);
  addEventListener("resize", drawRows);
  addEventListener("hashchange", follow);
  $("theme").addEventListener("click", toggleTheme);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("episode").addEventListener("mouseover", (event) => {
    const token = event.target.closest(".tok");
    if (!token) return;
    const number = Number(token.closest("[data-step]").dataset.step);
    const part = steps(episodes[state.current]).find((step) => step.n === number);
    hover(part, Number(token.dataset.k), event.clientX, event.clientY);
  });
  $("episode").addEventListener("mouseout", (event) => event.target.closest(".tok") && unhover());
}

function introduce() {
  const shown = episodes.length < about.total ? `${episodes.length} of ${about.total}` : `${episodes.length}`;
  const shift = about.policy === null ? "" : `; ρ and KL of ${about.policy} from ${about.reference}`;
  const levels = about.models.map((name, k) => `${name}${about.levels[k] ? ` (${about.levels[k]} level)` : ""}`);
  $("about").textContent = `${shown} responses of ${about.episodes.join(", ")}; V of ${levels.join(", ")}${shift}`;
  $("ranking").append(...about.models.map((name, k) => ranking(name, about.ranking[k])).filter(Boolean));
}

const ENOUGH = 10; // prompts, below which an interval over them says nothing

/** How often V ranks a right response above a wrong one to the same prompt: whether its colours mean something. */
function ranking(name, found) {
  if (found === null) return null;
  const percent = (x) => (100 * x).toFixed(0);
  const counted = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const told = `V of ${name} ranks a right response above a wrong one to the same prompt in ${percent(found.share)}% of ` +
    `${counted(found.pairs, "pair")} of ${counted(found.prompts, "prompt")}`;
  const interval = ` (95% interval ${percent(found.low)} to ${percent(found.high)}; chance 50%)`;
  if (found.prompts < ENOUGH) return el("p", { class: "weak", text: `${told}: too few to tell whether it can.` });
  if (found.low > 0.5) return el("p", { text: `${told}${interval}.` });
  const verdict = found.high < 0.5 ? "worse than chance" : "not shown to be better than chance";
  return el("p", { class: "weak", text: `${told}${interval}: ${verdict}; its colours may be noise.` });
}

introduce();
choices();
listen();
filter();
follow();
