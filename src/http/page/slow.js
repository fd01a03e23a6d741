"use strict";

// Why it is slow: how long stages, models, servers and workers took, beside each other, and what stands out. Asked for once in half a minute.

const AGAIN_MS = 30000;
const KINDS = ["stage", "model", "server", "worker"];

let timings = null;
let shownPart = null; // The part beside the jobs in the chart, as "kind name".
let shownStep = null; // A step that was picked in the chart; all of them otherwise.
let slowPlot = null;

const partKey = (part) => `${part.kind} ${part.name}`;
const hours = () => Number(document.querySelector('#slow-range [name="hours"]:checked').value);

/** One thing that stands out, in words. */
function culpritText(c) {
  const was = c.before_p99_ms == null ? "" : ` (${time(c.before_p99_ms)} before)`;
  return `${c.kind} ${c.name}: ${time(c.recent_p99_ms)}${was}`;
}

function verdictText(v) {
  if (v.recent_p99_ms == null && v.before_p99_ms == null) return "No job has ended within this time, or workers have not noted it yet: they do so once a minute.";
  const jobs = v.rose
    ? `The p99 of jobs rose from ${time(v.before_p99_ms)} to ${time(v.recent_p99_ms)}.`
    : v.recent_p99_ms == null ? "No job has ended lately." : `The p99 of jobs has not risen: ${time(v.recent_p99_ms)}${v.before_p99_ms == null ? "" : `, ${time(v.before_p99_ms)} before`}.`;
  const what = [v.stage, v.within].filter(Boolean).map(culpritText).join("; within it, ");
  const which = what && `${v.rose ? "What rose by the most" : "What takes longest"}: ${what}.`;
  const worker = v.worker && `One worker is slower than all others: ${culpritText(v.worker)}.`;
  return [jobs, which, worker].filter(Boolean).join(" ");
}

/** A part's figures: of the step that was picked, or of all. */
function figuresOfPart(part) {
  if (shownStep == null) return { calls: part.calls, total: part.seconds, mean: part.mean_ms, p99: part.recent_p99_ms ?? part.p99_ms, was: part.before_p99_ms };
  const [calls, mean] = [part.calls_by_step[shownStep], part.mean_ms_by_step[shownStep]];
  return { calls, total: (calls * (mean ?? 0)) / 1000, mean, p99: part.p99_ms_by_step[shownStep], was: part.p99_ms };
}

const rise = (part) => { const f = figuresOfPart(part); return (f.p99 ?? 0) - (f.was ?? 0); };

function slowTables() {
  const picked = shownStep == null ? "lately" : "then";
  const usual = shownStep == null ? "before" : "of all";
  for (const kind of KINDS) {
    const parts = timings.parts.filter((part) => part.kind === kind).sort((a, b) => rise(b) - rise(a));
    table(`slow-${kind}`, [
      [kind, (p) => {
        const pick = button(p.name, `time ${partKey(p)}`, () => { shownPart = shownPart === partKey(p) ? null : partKey(p); drawSlow(); slowTables(); });
        pick.setAttribute("aria-pressed", String(shownPart === partKey(p)));
        return pick;
      }],
      [`p99 ${picked}`, (p) => time(figuresOfPart(p).p99), "n"], [`p99 ${usual}`, (p) => time(figuresOfPart(p).was), "n"],
      ["mean", (p) => time(figuresOfPart(p).mean), "n"], ["times", (p) => figures.format(figuresOfPart(p).calls), "n"],
      ["altogether", (p) => time(1000 * figuresOfPart(p).total), "n"],
    ], parts, "nothing noted");
  }
  const at = shownStep == null ? null : new Date(timings.steps[shownStep]);
  say("slow-step", at ? `${clock(at).day} ${clock(at).time.slice(0, 5)} ${zone(at)} and the ${timings.step_seconds / 60} minutes after it.` : "");
  $("slow-all").hidden = !at;
}

/** The lines of the chart: jobs, and what was picked. */
function slowLines() {
  const jobs = timings.parts.find((part) => part.kind === "job");
  const other = timings.parts.find((part) => partKey(part) === shownPart);
  const line = (part, label, stroke) => part && { label, stroke, values: part.p99_ms_by_step };
  return [line(jobs, "jobs, p99", "--one"), line(other, other && `${partKey(other)}, p99`, "--two")].filter(Boolean);
}

function sayStep(lines) {
  const index = slowPlot?.cursor.idx ?? shownStep ?? timings.steps.length - 1;
  const at = new Date(timings.steps[index]);
  $("c-slow-now").replaceChildren(...lines.flatMap(({ label, stroke, values }) => {
    const mark = element("span", null, "key-mark");
    mark.style.background = `var(${stroke})`;
    return [mark, `${label} ${time(values[index])}   `];
  }), `from ${clock(at).time.slice(0, 5)} ${zone(at)} on`);
}

function drawSlow() {
  const [lines, container] = [slowLines(), $("c-slow")];
  slowPlot?.destroy();
  const axis = (more) => ({ stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui", ...more });
  slowPlot = new uPlot({
    width: Math.max(200, container.clientWidth), height: 200, legend: { show: false }, cursor: { y: false, drag: { x: false, y: false } }, hooks: { setCursor: [() => slowPlot && sayStep(lines)] },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [axis({ values: (_, ticks) => ticks.map((tick) => clock(new Date(1000 * tick)).time.slice(0, 5)) }), axis({ size: 64, values: (_, ticks) => ticks.map(time) })],
    series: [{}, ...lines.map(({ label, stroke }) => ({ label, stroke: colour(stroke), width: 2, spanGaps: false, points: { show: true, size: 5 } }))],
  }, [timings.steps.map((at) => Date.parse(at) / 1000), ...lines.map(({ values }) => values)], container);
  slowPlot.over.addEventListener("click", () => pickStep(slowPlot.cursor.idx));
  sayStep(lines);
}

function pickStep(index) {
  if (index == null) return;
  shownStep = Math.max(0, Math.min(timings.steps.length - 1, index));
  slowTables();
  sayStep(slowLines());
}

async function showSlow() {
  const asked = hours();
  await saying("slow-said", async () => {
    const answer = await fetchJson(`/v1/timings?hours=${asked}`);
    if (asked !== hours()) return;
    // A step stays the one that was picked while the range moves on.
    const picked = shownStep == null ? null : timings.steps[shownStep];
    timings = answer;
    const index = timings.steps.indexOf(picked);
    shownStep = index < 0 ? null : index;
    say("slow-said", verdictText(timings.verdict) + (timings.is_whole ? "" : " There is more than is read: the earliest is missing."));
    drawSlow();
    slowTables();
  });
}

$("slow-range").addEventListener("change", () => { shownStep = null; showSlow(); });
$("slow-all").addEventListener("click", () => {
  shownStep = null;
  slowTables();
  sayStep(slowLines());
  $("slow-later").focus();
});
$("slow-earlier").addEventListener("click", () => timings && pickStep((shownStep ?? timings.steps.length) - 1));
$("slow-later").addEventListener("click", () => timings && pickStep((shownStep ?? timings.steps.length - 2) + 1));
addEventListener("resize", () => { if (slowPlot && $("c-slow").clientWidth) slowPlot.setSize({ width: Math.max(200, $("c-slow").clientWidth), height: 200 }); });
addEventListener("redraw", () => { if (timings) { drawSlow(); slowTables(); } });

ready.then(async () => {
  for (;;) {
    if (!document.hidden && ($("key-form").hidden || key())) await showSlow();
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
});
