// The page of `pmpo watch`: asks the process that serves it what the runs are and how they stand, and draws
// it. No library, no build step, nothing from elsewhere. What comes from files is put in as text only.
"use strict";

const PERIOD_MS = 2000;
// Looks between questions for a film: the answer costs the other side more than others do.
const FILM_LOOKS = 5;
const COLOURS = 8;
const SVG = "http://www.w3.org/2000/svg";

const AXES = {
  steps: { label: "environment steps", ofRow: (row) => row.env_steps, format: count },
  learner: { label: "learner steps", ofRow: (row) => row.learner_steps, format: count },
  time: { label: "time", ofRow: (row) => row.wall_s, format: duration },
};

const SYSTEM = {
  "rate/environment_steps_per_s": "environment steps a second",
  "rate/learner_steps_per_s": "learner steps a second",
  "policy/lag_mean_versions": "policy lag in versions, mean of a batch",
  "policy/lag_max_versions": "policy lag in versions, oldest of a batch",
  "train/return_mean": "return of training episodes",
  "replay/items": "items in the replay",
  "replay/samples_per_insert": "samples per insert",
  "replay/bytes": "bytes in the replay",
};

// States in the order in which they are stacked, work first; what they are called.
const STATIONS = {
  learner: { updating: "updating", publishing: "publishing", saving: "saving", waiting: "waiting for a batch" },
  actor: { environment: "environment", inference: "policy", inserting: "handing over, and waiting to" },
  replay: {
    running: "running", inserting: "inserting", sampling: "sampling",
    waiting_for_inserts: "holding samples back for inserts",
    waiting_for_samples: "holding inserts back for samples", idle: "idle",
  },
  lockstep: { acting: "acting", updating: "updating", evaluating: "evaluating", saving: "saving" },
};

// What is no work is grey.
const grey = (share) => `color-mix(in srgb, var(--c7) ${share}%, var(--card))`;
const WAITS = {
  waiting: grey(55), waiting_for_inserts: grey(55), waiting_for_samples: grey(85), idle: grey(25),
};

// An actor's threads hand over in no time unless they have to wait.
const waits = (station, name) => WAITS[station === "actor" && name === "inserting" ? "waiting" : name];

const state = {
  runs: [], own: null, focus: named(),
  ticked: new Map(), // name -> number of its colour
  data: new Map(), // name -> { rows, series, config, stamp }
  axis: "steps", film: null, ended: false,
  looks: 0, // since a film was asked for
  version: 0, // of all data
  drawn: "", // what the charts show
};

// The run that the page's address names.
function named() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    return null; // Not an encoding of anything.
  }
}

const $ = (id) => document.getElementById(id);

// ---- numbers -------------------------------------------------------------------------------------------

function count(value) {
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return trim(value / unit) + letter;
  }
  return size !== 0 && size < 1e-3 ? value.toExponential(1) : trim(value);
}

function trim(value) {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
  return String(Number(value.toFixed(digits)));
}

function whole(value) {
  return Math.round(value).toLocaleString("en");
}

function duration(seconds) {
  if (seconds < 60) return `${trim(seconds)} s`;
  if (seconds < 3600) return `${trim(seconds / 60)} min`;
  return `${trim(seconds / 3600)} h`;
}

function percent(share) {
  return `${Math.round(100 * share)}%`;
}

// Round numbers from low to high, about so many.
function ticks(low, high, about) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

// ---- elements ------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, attributes);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function colour(number) {
  return `var(--c${number % COLOURS})`;
}

function legend(entries) {
  const list = element("ul", { className: "legend" });
  for (const [label, paint] of entries) {
    const swatch = element("i");
    swatch.style.setProperty("--swatch", paint);
    list.append(element("li", {}, swatch, label));
  }
  return list;
}

// ---- charts --------------------------------------------------------------------------------------------

// The coordinate system of a chart `width` x `height` pixels, with its axes drawn.
function frame(host, { x, y, height, xAxis, yFormat }) {
  const width = Math.max(host.clientWidth, 200);
  const [left, right, top, bottom] = [46, 10, 8, height > 200 ? 38 : 22];
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
  const toX = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (width - left - right);
  const toY = (value) => height - bottom - ((value - y[0]) / (y[1] - y[0])) * (height - top - bottom);
  for (const value of ticks(y[0], y[1], height > 200 ? 5 : 4)) {
    svg.append(drawn("line", { class: "rule", x1: left, x2: width - right, y1: toY(value), y2: toY(value) }));
    svg.append(drawn("text", { x: left - 6, y: toY(value) + 4, "text-anchor": "end" }, yFormat(value)));
  }
  svg.append(drawn("line", { class: "base", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  for (const value of ticks(x[0], x[1], width > 500 ? 8 : 4)) {
    svg.append(drawn("text", { x: toX(value), y: height - bottom + 15, "text-anchor": "middle" }, xAxis.format(value)));
  }
  if (height > 200) {
    svg.append(drawn("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, xAxis.label));
  }
  return { svg, toX, toY, width, left, right, top, bottom, height };
}

function range(values, pad) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  if (low === high) [low, high] = [low - (Math.abs(low) / 2 || 1), high + (Math.abs(high) / 2 || 1)];
  const more = pad * (high - low);
  return [low >= 0 ? Math.max(0, low - more) : low - more, high + more];
}

// Lines of { label, paint, points: [[x, y]], band: [[x, low, high]] }.
function chart(host, { lines, height, xAxis, yFormat = count }) {
  const shown = lines.filter((line) => line.points.length > 0);
  const x = range(shown.flatMap((line) => line.points.map((p) => p[0])), 0);
  const y = range(shown.flatMap((line) => [
    ...line.points.map((p) => p[1]), ...(line.band || []).flatMap((p) => [p[1], p[2]]),
  ]), 0.06);
  if (!x) return [element("p", { className: "empty", textContent: "nothing yet" })];
  const plot = frame(host, { x, y, height, xAxis, yFormat });
  const at = ([px, py]) => `${plot.toX(px).toFixed(1)},${plot.toY(py).toFixed(1)}`;
  for (const { band, paint } of shown) {
    if (!band) continue;
    const outline = [...band.map((p) => at([p[0], p[2]])), ...band.map((p) => at([p[0], p[1]])).reverse()];
    const area = drawn("polygon", { class: "band", points: outline.join(" ") });
    area.style.fill = paint;
    plot.svg.append(area);
  }
  for (const { points, paint } of shown) {
    const line = drawn("polyline", { class: "curve", points: points.map(at).join(" ") });
    line.style.stroke = paint;
    plot.svg.append(line);
    if (points.length > 60) continue;
    for (const point of points.length < 3 || height > 200 ? points : []) {
      const dot = drawn("circle", { cx: plot.toX(point[0]), cy: plot.toY(point[1]), r: 2.4 });
      dot.style.fill = paint;
      plot.svg.append(dot);
    }
  }
  follow(host, plot, shown, { x, xAxis, yFormat });
  return [plot.svg];
}

// Says what the curves are where the pointer is.
function follow(host, plot, lines, { x, xAxis, yFormat }) {
  const cross = drawn("line", { class: "cross", y1: plot.top, y2: plot.height - plot.bottom, visibility: "hidden" });
  plot.svg.append(cross);
  const tip = element("div", { className: "tip", hidden: true });
  const leave = () => { cross.setAttribute("visibility", "hidden"); tip.remove(); };
  plot.svg.addEventListener("pointerleave", leave);
  plot.svg.addEventListener("pointermove", (event) => {
    const box = plot.svg.getBoundingClientRect();
    const inside = (event.clientX - box.left) * (plot.width / box.width);
    const share = (inside - plot.left) / (plot.width - plot.left - plot.right);
    if (share < 0 || share > 1) return leave();
    const wanted = x[0] + share * (x[1] - x[0]);
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a));
    const found = lines.map((line) => [line.label, nearest(line.points)]);
    const [, first] = found[0];
    cross.setAttribute("visibility", "visible");
    cross.setAttribute("x1", plot.toX(first[0]));
    cross.setAttribute("x2", plot.toX(first[0]));
    const words = found.map(([label, point]) => (lines.length > 1 ? `${label}: ` : "") + yFormat(point[1]));
    tip.replaceChildren(...[xAxis.format(first[0]), ...words].map((text) => element("div", { textContent: text })));
    tip.hidden = false;
    host.append(tip);
    const place = plot.toX(first[0]) * (box.width / plot.width);
    tip.style.left = `${place > box.width / 2 ? place - tip.offsetWidth - 10 : place + 10}px`;
  });
}

// Shares of { label, paint, points } that add up to 1, one upon the other.
function stack(host, { layers, xAxis, height }) {
  const first = layers[0].points;
  const x = range(first.map((p) => p[0]), 0);
  const plot = frame(host, { x, y: [0, 1], height, xAxis, yFormat: percent });
  const below = first.map(() => 0);
  for (const { points, paint } of layers) {
    const value = new Map(points);
    const bottom = first.map(([px], i) => [px, below[i]]);
    const top = first.map(([px], i) => [px, (below[i] += value.get(px) || 0)]);
    const at = ([px, py]) => `${plot.toX(px).toFixed(1)},${plot.toY(Math.min(py, 1)).toFixed(1)}`;
    const area = drawn("polygon", { points: [...top.map(at), ...bottom.map(at).reverse()].join(" "), "fill-opacity": 0.85 });
    area.style.fill = paint;
    plot.svg.append(area);
  }
  return plot.svg;
}

// ---- what is shown -------------------------------------------------------------------------------------

function shownRuns() {
  return [...state.ticked].filter(([name]) => state.data.has(name))
    .map(([name, number]) => ({ name, paint: colour(number), ...state.data.get(name) }));
}

function focused() {
  return state.runs.find((run) => run.name === state.focus);
}

// The points of a tag as [x, value], by the axis that is chosen.
function pointsOf(series, tag) {
  const points = (series[tag] || []).filter((point) => point[2] !== null);
  if (state.axis === "steps") return points.map(([, step, value]) => [step, value]);
  if (state.axis === "time") {
    const began = Math.min(...Object.values(series).map((other) => (other.length ? other[0][0] : Infinity)));
    return points.map(([time, , value]) => [time - began, value]);
  }
  const known = series["steps/learner"] || [];
  let i = 0;
  return points.map(([, step, value]) => {
    while (i + 1 < known.length && known[i + 1][1] <= step) i++;
    return [known.length ? known[i][2] : 0, value];
  });
}

function showRuns() {
  const items = state.runs.map((run) => {
    const box = element("input", { type: "checkbox", checked: state.ticked.has(run.name), ariaLabel: `show ${run.name}` });
    if (state.ticked.has(run.name)) box.style.setProperty("--swatch", colour(state.ticked.get(run.name)));
    box.addEventListener("change", () => { tick(run.name, box.checked); refresh(); });
    const name = element("button", { type: "button", textContent: run.name });
    name.addEventListener("click", () => { focus(run.name); refresh(); });
    const best = run.best === null ? "no evaluation" : `best ${trim(run.best)}`;
    const words = element("small", { textContent: `${run.state} · ${best}` });
    const item = element("li", {}, box, name, words);
    item.classList.toggle("focus", run.name === state.focus);
    return item;
  });
  $("runs").replaceChildren(...items);
}

function tick(name, on) {
  if (!on) return void state.ticked.delete(name);
  const used = new Set(state.ticked.values());
  const free = [...Array(COLOURS).keys()].find((number) => !used.has(number));
  if (!state.ticked.has(name)) state.ticked.set(name, free ?? state.ticked.size);
}

function focus(name) {
  // The one that was looked at stays only if others are beside it.
  if (state.ticked.size <= 1) state.ticked.clear();
  state.focus = name;
  state.film = null;
  tick(name, true);
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
}

function newest(series, tag) {
  const points = series?.[tag];
  return points?.length ? points[points.length - 1][2] : null;
}

function showHeadline() {
  const run = focused();
  if (!run) return;
  const series = state.data.get(run.name)?.series;
  document.title = `${run.name} · PMPO`;
  $("name").textContent = run.name;
  $("state").textContent = run.state;
  $("state").className = `pill ${run.state}`;
  const seed = run.seed === null ? "" : ` with seed ${run.seed}`;
  $("sentence").textContent = run.outcome ?? {
    running: `training ${run.task}${seed}`,
    broken: "no process has this run and it left no outcome: it was killed or failed; its logs say why",
  }[run.state] ?? "";
  const steps = series?.["rate/environment_steps_per_s"]?.at(-1)?.[1] ?? run.last?.env_steps;
  const rate = (tag) => (run.state === "running" && newest(series, tag) !== null ? `${count(newest(series, tag))}/s` : "");
  const tiles = [
    ["evaluation return", run.last && trim(run.last.eval_return_mean), run.last && `± ${trim(run.last.eval_return_std)}`],
    ["best return", run.best !== null && trim(run.best), `of ${run.evaluations}`],
    ["environment steps", steps !== undefined && whole(steps), rate("rate/environment_steps_per_s")],
    ["learner steps", newest(series, "steps/learner") ?? run.last?.learner_steps, rate("rate/learner_steps_per_s"), whole],
    ["policy lag", newest(series, "policy/lag_mean_versions"), "versions", trim],
    ["time of training", run.last && duration(run.last.wall_s), ""],
  ].filter(([, value]) => value !== null && value !== undefined && value !== false);
  $("tiles").replaceChildren(...tiles.map(([name, value, unit, format]) => element("div", {},
    element("dt", { textContent: name }),
    element("dd", {}, format ? format(value) : String(value), " ", element("small", { textContent: unit || "" })))));
}

function showCurve() {
  const axis = AXES[state.axis];
  const runs = shownRuns();
  const lines = runs.map(({ name, paint, rows }) => ({
    label: name,
    paint,
    points: rows.map((row) => [axis.ofRow(row), row.eval_return_mean]),
    band: rows.map((row) => [
      axis.ofRow(row), row.eval_return_mean - row.eval_return_std, row.eval_return_mean + row.eval_return_std,
    ]),
  }));
  const parts = chart($("curve"), { lines, height: 300, xAxis: axis });
  if (runs.length > 1) parts.push(legend(runs.map(({ name, paint }) => [name, paint])));
  $("curve").replaceChildren(...parts);
}

function small(host, title, tag) {
  const lines = shownRuns().map(({ name, paint, series }) => ({ label: name, paint, points: pointsOf(series, tag) }));
  if (!lines.some((line) => line.points.length)) return;
  const plot = element("div", { className: "plot" });
  host.append(plot);
  const last = newest(state.data.get(state.focus)?.series, tag);
  const heading = element("h3", {}, title, element("span", { textContent: last === null ? "" : count(last) }));
  plot.append(heading, ...chart(plot, { lines, height: 130, xAxis: AXES[state.axis] }));
}

function showSmall(id, tags) {
  const host = $(id);
  // Emptied and filled in one go would lose the place on the page.
  host.style.minHeight = `${host.offsetHeight}px`;
  host.replaceChildren();
  for (const [tag, title] of tags) small(host, title, tag);
  if (!host.childElementCount) host.append(element("p", { className: "empty", textContent: "nothing recorded (run.tensorboard)" }));
  host.style.minHeight = "";
}

function showStations() {
  const series = state.data.get(state.focus)?.series || {};
  const host = $("stations");
  host.replaceChildren();
  for (const [station, states] of Object.entries(STATIONS)) {
    const present = Object.keys(states).filter((name) => pointsOf(series, `time/${station}/${name}`).length);
    if (!present.length) continue;
    const layers = present.map((name, i) => ({
      label: states[name], points: pointsOf(series, `time/${station}/${name}`), paint: waits(station, name) ?? colour(i),
    }));
    const part = element("div", { className: "station plot" });
    host.append(part);
    const now = layers.map((layer) => [`${layer.label} ${percent(layer.points.at(-1)[1])}`, layer.paint]);
    part.append(element("h3", { textContent: station }), stack(part, { layers, xAxis: AXES[state.axis], height: 130 }), legend(now));
  }
  $("waits").textContent = verdict(series);
  if (!host.childElementCount) host.append(element("p", { className: "empty", textContent: "known after some seconds" }));
}

// The shares in words. Which side is short, the rate limiter knows: it holds the other one back.
function verdict(series) {
  const share = (tag) => newest(series, `time/${tag}`);
  if (share("lockstep/updating") !== null) return "One process does everything in turn; nobody waits.";
  const waiting = share("learner/waiting");
  if (waiting === null) return "";
  const learner = `The learner waits for its batches for ${percent(waiting)} of its time.`;
  const [actorsHeld, learnerHeld] = [share("replay/waiting_for_samples"), share("replay/waiting_for_inserts")];
  if (Math.max(actorsHeld, learnerHeld) < 0.3) return learner;
  const [held, what, short] = actorsHeld > learnerHeld
    ? [actorsHeld, "actors", "the learner"] : [learnerHeld, "the learner", "actors"];
  return `To keep to its samples per insert, the replay holds ${what} back for ${percent(held)} of the time: what is short is ${short}. ${learner}`;
}

function showConfig() {
  const runs = shownRuns().filter((run) => run.config);
  const wanted = $("filter").value.trim().toLowerCase();
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))].sort();
  const rows = [];
  for (const key of keys) {
    const values = runs.map((run) => run.config[key] ?? "");
    const differs = new Set(values).size > 1;
    if (!key.toLowerCase().includes(wanted) || ($("only").checked && !differs)) continue;
    const cells = values.map((value) => element("td", { textContent: value }));
    const row = element("tr", {}, element("td", { textContent: key }), ...cells);
    row.classList.toggle("differs", differs);
    rows.push(row);
  }
  const head = runs.length > 1 ? [element("tr", {}, element("th"), ...runs.map((run) => element("th", { textContent: run.name })))] : [];
  $("config").replaceChildren(...head, ...rows);
}

function showFilm() {
  const look = state.film;
  const address = look?.step != null && `/api/run/${encodeURIComponent(state.focus)}/film/${look.step}`;
  if (address) {
    const present = $("film").querySelector("img");
    if (present?.getAttribute("src") !== address) {
      $("film").replaceChildren(element("img", { src: address, alt: "an episode of the policy", width: 320, height: 240 }));
    }
  } else {
    const words = look?.drawing ? "being drawn" : look?.reason ?? "";
    $("film").replaceChildren(element("p", { className: "empty", textContent: words }));
  }
  $("film-words").textContent = address ? `The policy of learner step ${whole(look.step)}, 10 s.` + (look.drawing ? " A newer one is being drawn." : "") : "";
}

function showLink(words, kind) {
  $("link").textContent = words;
  $("link").className = `link ${kind}`;
}

function show() {
  showRuns();
  showHeadline();
  showFilm();
  // Charts that would be the same stay, and with them what is said under the pointer.
  const wanted = JSON.stringify([state.version, state.focus, state.axis, [...state.ticked], innerWidth]);
  if (wanted === state.drawn) return;
  state.drawn = wanted;
  showCurve();
  showStations();
  showSmall("system", Object.entries(SYSTEM));
  const tags = new Set(shownRuns().flatMap((run) => Object.keys(run.series)));
  showSmall("update", [...tags].filter((tag) => tag.startsWith("update/")).sort().map((tag) => [tag, tag.slice(7).replaceAll("_", " ")]));
  showConfig();
}

// ---- what is asked -------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `${path}: ${answer.status}`);
  return answer.json();
}

// What is new of a run since it was last asked for.
async function load(run) {
  const known = state.data.get(run.name);
  const stamp = `${run.state} ${run.began} ${run.changed}`;
  if (known && known.stamp === stamp && run.state !== "running") return;
  const path = `/api/run/${encodeURIComponent(run.name)}`;
  const [progress, series, config] = await Promise.all([
    ask(`${path}/progress`), ask(`${path}/series`),
    known?.began === run.began ? { config: known.config } : ask(`${path}/config`),
  ]);
  state.version += 1;
  state.data.set(run.name, { ...progress, ...series, ...config, stamp, began: run.began });
}

async function refresh() {
  let wrong = null;
  try {
    const { root, own, runs } = await ask("/api/runs");
    Object.assign(state, { runs, own });
    $("root").textContent = root;
    if (!focused() && runs.length) focus(runs.find((run) => run.name === own)?.name ?? runs[0].name);
    tick(state.focus, true);
    const wanted = runs.filter((run) => state.ticked.has(run.name));
    for (const result of await Promise.allSettled(wanted.map(load))) wrong ??= result.reason;
    state.looks += 1;
    if (focused() && (!state.film || state.film.drawing || state.looks >= FILM_LOOKS)) {
      state.looks = 0;
      state.film = await ask(`/api/run/${encodeURIComponent(state.focus)}/film`);
    }
    state.ended = runs.some((run) => run.name === own && run.state !== "running");
    showLink(wrong ? wrong.message : "live", wrong ? "lost" : "live");
  } catch (error) {
    const gone = error instanceof TypeError;
    const over = state.ended ? "the run has ended, and with it this page's process; `pmpo watch` shows it again" : "no answer: the process that serves this page is gone or stopped";
    showLink(gone ? over : error.message, gone && state.ended ? "" : "lost");
  }
  show();
}

async function live() {
  if (!document.hidden) await refresh();
  setTimeout(live, PERIOD_MS);
}

for (const [name, axis] of Object.entries(AXES)) {
  const button = element("button", { type: "button", textContent: axis.label });
  button.addEventListener("click", () => choose(name));
  button.dataset.axis = name;
  $("axis").append(button);
}

function choose(axis) {
  state.axis = axis;
  for (const button of $("axis").children) button.setAttribute("aria-pressed", String(button.dataset.axis === axis));
  show();
}

$("filter").addEventListener("input", showConfig);
$("only").addEventListener("change", showConfig);
window.addEventListener("resize", show);
window.addEventListener("hashchange", () => { if (named()) focus(named()); refresh(); });
choose(state.axis);
if (state.focus) tick(state.focus, true);
live();
