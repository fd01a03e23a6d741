"use strict";

// The page draws the samples of /v1/live, and gets the rest from the API. All text is inserted as text, never as markup.

const $ = (id) => document.getElementById(id);
const STEP = 2; // Seconds between samples.
const MINUTE = 60 / STEP;
const SHOWN = 12; // Rows of the tables of recent problems.
const FEW = 20; // Inputs of a pattern below which its hit rate says little.

// --- Requests ---

const key = () => sessionStorage.getItem("kiln-key");

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key()) headers.set("Authorization", `Bearer ${key()}`);
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) $("key-form").hidden = false;
  return response;
}

async function fetchJson(path, options) {
  const response = await request(path, options);
  const body = await response.json();
  // /health answers 503 with a body that says what is missing: no failure.
  if (!response.ok && path !== "/health") throw new Error(body.error ? body.error.message : `${path}: ${response.status}`);
  return body;
}

// All workers: one question for all who ask it before it is answered.
let fleetAsked = null;
const fetchFleet = () => (fleetAsked ??= fetchJson("/v1/fleet").finally(() => { fleetAsked = null; }));

// What the key of this page may do.
let scopes = [];
const may = (scope) => scopes.includes(scope);

async function whoCalls() {
  try {
    const caller = await fetchJson("/v1/key");
    scopes = caller.scopes;
    if (!may("read")) $("key-form").hidden = false;
  } catch {
    scopes = [];
  }
}

function showError(text) {
  $("said").textContent = text;
  $("said").hidden = !text;
}

// --- Figures ---

const figures = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const number = (n) => (n == null || Number.isNaN(n) ? "–" : n >= 100 ? figures.format(n) : fine.format(n));
const percent = (n) => (n == null || Number.isNaN(n) ? "–" : `${(100 * n).toFixed(1)} %`);
const shadowText = (s) => [
  `${s.version}, ${percent(s.share)} of inputs`, s.trouble, s.compared && `${number(s.mean_absolute)} apart on average, ${number(s.max_absolute)} at most`,
  s.rank_correlation != null && `rank correlation ${number(s.rank_correlation)}`, s.flips != null && `${percent(s.flips)} other labels`, s.dropped && `${figures.format(s.dropped)} dropped`,
].filter(Boolean).join("; ");
const bytes = (n) => (n == null ? "–" : n >= 2 ** 20 ? `${fine.format(n / 2 ** 20)} MiB` : `${fine.format(n / 1024)} KiB`);
const time = (ms) => (ms == null || Number.isNaN(ms) ? "–" : ms >= 1000 ? `${fine.format(ms / 1000)} s` : `${fine.format(ms)} ms`);

let names = [];
let samples = [];
let addresses = {}; // Of servers that may have several.
let columns = new Map();

const column = (name) => columns.get(name);
const family = (prefix) => names.filter((name) => name.startsWith(`${prefix}{`));
const at = (sample, name) => {
  const index = column(name);
  return index === undefined ? null : sample[index];
};

/** Growth of counters between two samples; a restarted worker counts from zero. */
function growth(before, after, counters) {
  let sum = 0;
  for (const name of counters) {
    const [a, b] = [at(before, name) ?? 0, at(after, name) ?? 0];
    sum += b >= a ? b - a : b;
  }
  return sum;
}

const seconds = (before, after) => (after[0] - before[0]) / 1000;

/** A percentile of job latency between two samples, in milliseconds, interpolated within its bucket. */
function percentile(before, after, share) {
  const buckets = family("kiln_job_duration_seconds_bucket");
  const counts = buckets.map((name) => growth(before, after, [name]));
  const all = counts[counts.length - 1];
  if (!all) return null;
  const wanted = share * all;
  const index = counts.findIndex((count) => count >= wanted);
  const bound = (i) => Number(buckets[i].match(/le="([^"]+)"/)[1].replace("+Inf", "Infinity"));
  if (index === counts.length - 1) return 1000 * bound(index - 1);
  const [low, below] = index ? [bound(index - 1), counts[index - 1]] : [0, 0];
  const inside = counts[index] - below;
  return 1000 * (low + (bound(index) - low) * (inside ? (wanted - below) / inside : 1));
}

const HITS = ['kiln_inputs_total{result="hit"}'];
const LOOKED_UP = [...HITS, 'kiln_inputs_total{result="miss"}'];
const INPUTS = [...LOOKED_UP, 'kiln_inputs_total{result="coalesced"}', 'kiln_inputs_total{result="uncached"}'];
const queue = (kind) => `kiln_queue_messages{queue="${kind}"}`;

/** What a chart shows between two samples. */
const CHARTS = {
  jobs: {
    series: [["jobs", "--one"], ["inputs", "--two"]],
    step: (a, b) => [growth(a, b, family("kiln_jobs_total")) / seconds(a, b), growth(a, b, INPUTS) / seconds(a, b)],
    show: number,
  },
  hits: {
    series: [["hit rate", "--four"]],
    step: (a, b) => { const all = growth(a, b, LOOKED_UP); return [all ? growth(a, b, HITS) / all : null]; },
    show: percent, range: [0, 1],
  },
  times: {
    series: [["p50", "--four"], ["p95", "--two"], ["p99", "--one"]],
    step: (a, b) => [percentile(a, b, 0.5), percentile(a, b, 0.95), percentile(a, b, 0.99)],
    show: time,
  },
  queues: {
    series: [["jobs", "--one"], ["warming", "--two"], ["dead letters", "--three"]],
    step: (_, b) => [at(b, queue("jobs")), at(b, queue("warm")), at(b, queue("dead"))],
    show: number,
  },
  batches: {
    series: [["batches per second", "--two"], ["jobs per batch", "--one"]],
    step: (a, b) => {
      const count = growth(a, b, ["kiln_batch_jobs_count"]);
      return [count / seconds(a, b), count ? growth(a, b, ["kiln_batch_jobs_sum"]) / count : null];
    },
    show: number,
  },
  errors: {
    series: [["Redis", "--one"], ["Postgres", "--two"], ["rejected", "--three"]],
    step: (a, b) => [
      growth(a, b, family("kiln_cache_operations_total")) / seconds(a, b),
      growth(a, b, ["kiln_store_errors_total"]) / seconds(a, b),
      growth(a, b, family("kiln_rejections_total")) / seconds(a, b),
    ],
    show: number,
  },
};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const drawn = new Map();

/** From the first sample to the last, and at least the last minute. */
function lately() {
  const [first, last] = [samples[0], samples[samples.length - 1]].map((sample) => (sample ? sample[0] : Date.now()) / 1000);
  return [Math.min(first, last - 60), last];
}

function build(name, chart) {
  const container = $(`c-${name}`);
  drawn.get(name)?.destroy();
  const axis = (more) => ({ stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui", ...more });
  const options = {
    width: Math.max(200, container.clientWidth), height: 170, legend: { show: false }, cursor: { y: false }, hooks: { setCursor: [() => figuresOf(name, chart)] },
    scales: { x: { time: true, range: lately }, y: { range: chart.range ?? ((_, low, high) => [0, high > 0 ? high * 1.1 : 1]) } },
    axes: [axis({ values: (_, ticks) => ticks.map((tick) => clock(new Date(1000 * tick)).time.slice(0, tick % 60 ? 8 : 5)) }), axis({ size: 58, values: (_, ticks) => ticks.map((tick) => chart.show(tick)) })],
    series: [{}, ...chart.series.map(([label, stroke]) => ({ label, stroke: colour(stroke), width: 2, spanGaps: false, points: { show: false } }))],
  };
  drawn.set(name, new uPlot(options, data(chart), container));
}

function data(chart) {
  const rows = samples.slice(1).map((sample, i) => chart.step(samples[i], sample));
  const times = samples.slice(1).map((sample) => sample[0] / 1000);
  return [times, ...chart.series.map((_, i) => rows.map((row) => (Number.isFinite(row[i]) ? row[i] : null)))];
}

/** Says a chart's figures: where the pointer is, or else the latest. */
function figuresOf(name, chart) {
  const plot = drawn.get(name);
  if (!plot) return;
  const pointed = plot.cursor.idx;
  const index = pointed ?? plot.data[0].length - 1;
  const marks = chart.series.flatMap(([label, stroke], i) => {
    const mark = document.createElement("span");
    mark.className = "key-mark";
    mark.style.background = `var(${stroke})`;
    return [mark, `${label} ${chart.show(plot.data[i + 1][index])}${i + 1 < chart.series.length ? "   " : ""}`];
  });
  const at = plot.data[0][index];
  $(`c-${name}-now`).replaceChildren(...marks, ...(pointed == null || at == null ? [] : [`   at ${clock(new Date(1000 * at)).time}`]));
}

function draw() {
  for (const [name, chart] of Object.entries(CHARTS)) {
    drawn.get(name)?.setData(data(chart));
    figuresOf(name, chart);
  }
  tiles();
}

function tiles() {
  const last = samples[samples.length - 1];
  const first = samples[Math.max(0, samples.length - 1 - MINUTE)];
  if (!last) return;
  const put = (id, text) => { $(id).textContent = text; };
  put("t-hand", number(at(last, "kiln_jobs_in_hand")));
  put("t-waiting", number(at(last, queue("jobs"))));
  put("t-warm", number(at(last, queue("warm"))));
  put("t-dead", number(at(last, queue("dead"))));
  const total = family("kiln_jobs_total").reduce((sum, name) => sum + (at(last, name) ?? 0), 0);
  put("t-total", figures.format(total));
  put("t-rejected", figures.format(at(last, 'kiln_jobs_total{outcome="rejected"}') ?? 0));
  if (first === last) return;
  const span = seconds(first, last);
  put("t-jobs", number(growth(first, last, family("kiln_jobs_total")) / span));
  put("t-inputs", number(growth(first, last, INPUTS) / span));
  const looked = growth(first, last, LOOKED_UP);
  put("t-hits", percent(looked ? growth(first, last, HITS) / looked : null));
  for (const [id, share] of [["t-p50", 0.5], ["t-p95", 0.95], ["t-p99", 0.99]]) put(id, time(percentile(first, last, share)));
  $("servers").replaceChildren(...family("kiln_server_up").map((name) => {
    const item = document.createElement("li");
    const up = at(last, name) === 1;
    const server = name.match(/"(.+)"/)[1];
    const where = addresses[server] ? ` at ${addresses[server]}` : "";
    item.textContent = `${server}${where} ${up ? "answers" : "doesn't answer"}`;
    item.classList.toggle("down", !up);
    return item;
  }));
}

// --- Live samples ---

function onEvent(event, text) {
  if (event === "history") {
    const history = JSON.parse(text);
    names = history.names;
    columns = new Map(names.map((name, i) => [name, i + 1]));
    samples = history.samples;
    for (const [name, chart] of Object.entries(CHARTS)) build(name, chart);
  } else if (event === "sample") {
    samples.push(JSON.parse(text));
    samples = samples.slice(-450);
  }
  draw();
}

async function follow() {
  for (let wait = 500; ; wait = Math.min(2 * wait, 10000)) {
    try {
      const response = await request("/v1/live");
      if (!response.ok) throw new Error(String(response.status));
      wait = 500;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const field = (name) => part.split("\n").filter((line) => line.startsWith(name)).map((line) => line.slice(name.length).trim()).join("\n");
          if (field("data:")) onEvent(field("event:"), field("data:"));
        }
      }
    } catch (error) {
      state("bad", "no answer", key() || $("key-form").hidden ? "" : ": an API key is required");
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

// --- Tables ---

/** Columns are [title, cell of a row, kind]; a cell is text or an element. */
function table(id, layout, rows, none) {
  const head = document.createElement("tr");
  for (const [title, , kind] of layout) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = kind ?? "";
    cell.textContent = title;
    head.append(cell);
  }
  const lines = rows.map((row) => {
    const line = document.createElement("tr");
    layout.forEach(([, show, kind], i) => {
      const cell = document.createElement(i ? "td" : "th");
      if (!i) cell.scope = "row";
      cell.className = kind ?? "";
      cell.append(show(row) ?? "–");
      line.append(cell);
    });
    return line;
  });
  if (!rows.length) {
    const line = document.createElement("tr");
    const cell = document.createElement("td");
    cell.colSpan = layout.length;
    cell.className = "none";
    cell.textContent = none;
    line.append(cell);
    lines.push(line);
  }
  const top = document.createElement("thead");
  top.append(head);
  const body = document.createElement("tbody");
  body.append(...lines);
  // A focused button keeps the focus although its row is replaced.
  const focused = $(id).contains(document.activeElement) ? document.activeElement.dataset?.does : null;
  $(id).replaceChildren(top, body);
  if (focused) $(id).querySelector(`[data-does="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// --- Times: 24 hours, in the browser's zone or in UTC ---

let utc = localStorage.getItem("kiln-utc") === "1";

/** A moment's day and time. */
function clock(date) {
  const parts = new Intl.DateTimeFormat("en-GB", {
    timeZone: utc ? "UTC" : undefined, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  }).formatToParts(date);
  const part = (type) => parts.find((one) => one.type === type).value;
  return { day: `${part("year")}-${part("month")}-${part("day")}`, time: `${part("hour")}:${part("minute")}:${part("second")}` };
}

/** The zone's name at a moment, such as UTC+1. */
const zone = (date) => (utc ? "UTC" : new Intl.DateTimeFormat("en-GB", { timeZoneName: "shortOffset" }).formatToParts(date).find((one) => one.type === "timeZoneName").value.replace("GMT", "UTC"));

function when(text) {
  if (!text) return null;
  const element = document.createElement("time");
  element.dateTime = text;
  const date = new Date(text);
  const { day, time } = clock(date);
  element.textContent = day === clock(new Date()).day ? time : `${day} ${time}`;
  element.title = `${day} ${time} ${zone(date)}`;
  return element;
}

function showZone() {
  $("zone").textContent = zone(new Date());
  for (const one of document.querySelectorAll(".zone")) one.textContent = `(${zone(new Date())})`;
  $("zone").setAttribute("aria-label", `Times are in ${zone(new Date())}: ${utc ? "show the browser's" : "show UTC"}`);
}

function state(kind, word, why) {
  $("state").className = `state ${kind}`;
  say("state-word", word);
  say("state-why", why);
}

const button = (text, does, act) => {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  // A long name is cut where there is little room.
  if (text.length > 20) made.title = text;
  made.dataset.does = does;
  made.addEventListener("click", act);
  return made;
};

let paused = false;

const SECTIONS = {
  async health() {
    const health = await fetchJson("/health");
    // The words of /readyz.
    const line = ([part, why]) => `${part}: ${why}`;
    addresses = health.addresses;
    const missing = Object.entries(health.missing).map(line);
    const degraded = Object.entries(health.degraded).map(line);
    const said = health.status === "degraded" ? degraded : [...missing, ...degraded.map((one) => `degraded: ${one}`)];
    const kind = { ready: "ready", degraded: "", paused: "" }[health.status] ?? "bad";
    state(kind, health.status, said.length ? ` – ${said.join("; ")}` : "");
    const servers = health.parts.filter((p) => p.address).map((p) => `${p.part} at ${p.address}`);
    $("worker").textContent = [`${location.host}, version ${health.version}`, ...servers].join("; ");
    document.title = `${health.status} – Kiln`;
    paused = health.status === "paused";
    $("intake").textContent = paused ? "Resume intake" : "Pause intake";
    $("intake").hidden = !may("admin");
  },
  async fleet() {
    const fleet = await fetchFleet();
    const mebibytes = (n) => `${figures.format(n / 2 ** 20)} MiB`;
    $("fleet-sum").textContent = `${fleet.workers_up} workers, ${figures.format(fleet.jobs)} jobs and a hit rate of ${percent(fleet.hit_rate)} within the last five minutes. Those that are gone are shown for an hour.`;
    table("fleet-table", [
      ["worker", (w) => w.name], ["state", (w) => [w.state, w.reason].filter(Boolean).join(": ")], ["version", (w) => w.version],
      ["since", (w) => when(w.started_at)], ["seen", (w) => when(w.seen_at)], ["lanes", (w) => w.lanes.join(", ") || null], ["models", (w) => [...w.models, ...w.splits].join(", ") || null],
      ["jobs waiting", (w) => figures.format(w.waiting_jobs), "n"], ["in hand", (w) => mebibytes(w.bytes_in_hand), "n"],
      ["jobs", (w) => figures.format(w.jobs), "n"], ["hit rate", (w) => percent(w.hit_rate), "n"], ["p99", (w) => time(w.p99_ms), "n"],
      ["memory", (w) => mebibytes(w.memory_bytes), "n"],
    ], fleet.workers, "no workers");
  },
  async lanes() {
    const { lanes } = await fetchJson("/v1/lanes");
    const left = (l) => l.queue?.messages > 0 && l.queue.consumers === 0;
    table("lanes-table", [
      ["lane", (l) => l.name], ["jobs / inputs waiting", (l) => `${figures.format(l.jobs)} / ${figures.format(l.waiting_inputs)}`, "n"],
      ["model time in hand", (l) => time(1000 * l.model_seconds_in_hand), "n"], ["batches in flight", (l) => figures.format(l.batches_in_flight), "n"],
      ["jobs moved", (l) => figures.format(l.moved_jobs), "n"], ["in its queues", (l) => (l.queue ? figures.format(l.queue.messages) : null), "n"],
      ["consumers", (l) => (l.queue ? figures.format(l.queue.consumers) : null), "n"],
      ["longest wait", (l) => time(1000 * l.longest_wait_seconds), "n"], ["waits longest", (l) => l.namespaces[0]?.namespace],
      ["state", (l) => (left(l) ? "no worker takes its jobs" : l.served ? "served" : "not served here")],
    ], lanes, "no lanes");
    $("lanes-left").textContent = lanes.filter(left).map((l) => `Lane ${l.name} has jobs, and no worker takes them: start one that serves it (kiln run --lanes ${l.name}).`).join(" ");
  },
  async cache() {
    const health = await fetchJson("/v1/cache/health");
    $("cache-health").textContent = [`The cache is ${health.status}.`, ...health.warnings, ...health.advice].join(" ");
    const layout = [
      ["pattern", (p) => p.pattern], ["hits", (p) => figures.format(p.hits), "n"], ["misses", (p) => figures.format(p.misses), "n"],
      ["hit rate", (p) => percent(p.hit_rate), "n"], ["jobs", (p) => figures.format(p.requests), "n"],
      ["p50", (p) => time(p.p50_ms), "n"], ["p95", (p) => time(p.p95_ms), "n"], ["p99", (p) => time(p.p99_ms), "n"],
    ];
    table("hot-table", layout, await fetchJson("/v1/cache/stats/top-patterns?limit=10"), "no requests yet");
    table("low-table", [layout[0], layout[3], layout[2], ["recommendation", (p) => p.recommendation, "wide"]],
      await fetchJson(`/v1/cache/stats/low-performers?min_inputs=${FEW}`), `no pattern of ${FEW} inputs or more has a hit rate below 50 %`);
  },
  async problems() {
    const nobodys = may("read:all") ? "none" : "shown to keys with the scope read:all";
    table("rejected-table", [
      ["job", (r) => r.job_id || "no id"], ["time", (r) => when(r.at)], ["code", (r) => r.code], ["field", (r) => r.field || null], ["reason", (r) => r.message, "wide"],
    ], may("read:all") ? (await fetchJson("/v1/rejections")).slice(0, SHOWN) : [], nobodys);
    table("actions-table", [
      ["what", (a) => a.action], ["time", (a) => when(a.at)], ["by", (a) => a.by], ["to", (a) => a.detail, "wide"],
    ], await fetchJson(`/v1/log/actions?limit=${SHOWN}`), "none");
    table("lines-table", [
      ["message", (l) => l.message], ["time", (l) => when(l.at)], ["level", (l) => l.level],
      ["fields", (l) => Object.entries(l.fields).map(([name, value]) => `${name} ${value}`).join(", ") || null, "wide"],
    ], (await fetchJson("/v1/log/recent")).slice(0, SHOWN), "none");
  },
};

async function refresh(name) {
  try {
    await SECTIONS[name]();
    if ($("said").dataset.of === name) showError("");
  } catch (error) {
    // Keep what is shown, and say why it is out of date.
    $("said").dataset.of = name;
    showError(`${name}: ${error.message}`);
  }
}

async function refreshForever() {
  for (let turn = 0; ; turn++) {
    const all = turn % 3 ? ["health", "lanes", "problems"] : Object.keys(SECTIONS);
    if (!document.hidden && ($("key-form").hidden || key())) await Promise.all(all.map(refresh));
    await new Promise((done) => setTimeout(done, 2000));
  }
}

// --- Controls ---

async function post(path, then) {
  try {
    await fetchJson(path, { method: "POST" });
    showError("");
  } catch (error) {
    $("said").dataset.of = "act";
    showError(error.message);
  }
  await refresh(then);
}

function confirmAction(title, more, yes) {
  $("ask-title").textContent = title;
  $("ask-more").textContent = more;
  $("ask-yes").textContent = yes;
  $("ask").returnValue = "";
  const goBack = keepFocus();
  $("ask").showModal();
  return new Promise((done) => $("ask").addEventListener("close", () => {
    goBack();
    done($("ask").returnValue === "yes");
  }, { once: true }));
}

$("intake").addEventListener("click", async () => {
  const [title, more, yes, path] = paused
    ? ["Resume intake?", "All workers on this database will take jobs from the queues again.", "Resume all workers", "/v1/intake/resume"]
    : ["Pause intake?", "All workers on this database will finish the jobs that they hold and take no new ones until intake is resumed. Scoring over HTTP continues.", "Pause all workers", "/v1/intake/pause"];
  if (await confirmAction(title, more, yes)) await post(path, "health");
});

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("kiln-key", $("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
  location.reload();
});

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  if (names.length) {
    for (const [name, chart] of Object.entries(CHARTS)) build(name, chart);
  }
  dispatchEvent(new Event("redraw"));
}

const prefers = matchMedia("(prefers-color-scheme: dark)");
const chosen = localStorage.getItem("kiln-theme");
theme(chosen ? chosen === "dark" : prefers.matches);
prefers.addEventListener("change", () => { if (!localStorage.getItem("kiln-theme")) theme(prefers.matches); });
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme !== "dark";
  localStorage.setItem("kiln-theme", dark ? "dark" : "light");
  theme(dark);
});

$("zone").addEventListener("click", () => {
  utc = !utc;
  localStorage.setItem("kiln-utc", utc ? "1" : "0");
  showZone();
  for (const [name, chart] of Object.entries(CHARTS)) if (names.length) build(name, chart);
  draw();
  for (const shown of document.querySelectorAll("main time")) shown.replaceWith(when(shown.dateTime));
  dispatchEvent(new Event("redraw"));
});
showZone();

/** On a narrow screen one section is shown at a time. */
function section() {
  const wanted = document.querySelector(`main > section[id="${CSS.escape(location.hash.slice(1))}"]`) ?? $("overview");
  for (const one of document.querySelectorAll("main > section")) one.classList.toggle("current", one === wanted);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  dispatchEvent(new Event("resize"));
}
addEventListener("hashchange", section);

let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => drawn.forEach((chart, name) => chart.setSize({ width: Math.max(200, $(`c-${name}`).clientWidth), height: 170 })), 150);
});

section();
// A key is asked for before anything is.
const loaded = new Promise((done) => (document.readyState === "loading" ? addEventListener("DOMContentLoaded", done) : done()));
const ready = Promise.all([whoCalls(), loaded]);
ready.then(() => {
  follow();
  refreshForever();
});
