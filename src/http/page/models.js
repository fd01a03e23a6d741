"use strict";

// Models: their versions, the change to one and back, with how far its scores move and how warm it is shown before.

const MAX_VERSIONS = 100; // Rows of the table.
const LOOK_MS = 5000; // How often a version that is looked at is compared again.
let compared = null; // The version that is looked at, as {name, version}.
let looks = 0; // Only the latest look is shown, and none once it is closed.

const modelPath = (name, what) => `/v1/models/${encodeURIComponent(name)}/${what}`;
const asJson = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** A version's share of its model's inputs, in words. */
const sharedText = (name, s) => `the share of ${name}@${s.version}, ${percent(s.share)} of the inputs`;
const endedText = (name, s) => (s ? ` ${sharedText(name, s)}, has ended.`.replace(" the", " The") : "");

/** The versions that the table has room for, in their order: those that serve or scored something lately first, then the newest. */
function shown(models) {
  if (models.length <= MAX_VERSIONS) return models;
  const ranks = new Map(models.map((m, at) => [m, (m.active || m.share != null ? 2 : m.times ? 1 : 0) * models.length + at]));
  const kept = new Set([...models].sort((a, b) => ranks.get(b) - ranks.get(a)).slice(0, MAX_VERSIONS));
  return models.filter((m) => kept.has(m));
}

/** Which workers serve a version by its model's bare name, in words. */
async function servedBy(name, version) {
  const { workers } = await fetchJson("/v1/fleet");
  const there = workers.filter((w) => !["lost", "stopped"].includes(w.state) && w.models.some((one) => one.startsWith(`${name}@`)));
  const on = there.filter((w) => w.models.includes(`${name}@${version}`));
  return `${figures.format(on.length)} of ${figures.format(there.length)} workers`;
}

SECTIONS.models = async () => {
  // What is known of the others is shown where the database tells it; this worker's own goes on without.
  const [models, fleet] = await Promise.all([fetchJson("/v1/models"), fetchFleet().catch(() => null)]);
  const everywhere = new Map((fleet?.models ?? []).map((m) => [`${m.name}@${m.version}`, m]));
  const all = (m) => everywhere.get(`${m.name}@${m.version}`);
  const trained = [
    ["trained on data until", (m) => (m.training ? when(m.training.to) : null)], ["rows", (m) => (m.training ? figures.format(m.training.rows) : null), "n"],
    ["training took", (m) => (m.training ? time(1000 * m.training.training_seconds) : null), "n"],
    ["evaluation", (m) => (m.training ? Object.entries(m.training.metrics).map(([name, figure]) => `${name} ${fine.format(figure)}`).join(", ") : null)],
  ];
  const several = models.some((m) => !m.active);
  table("models-table", [
    ["model", (m) => m.name], ["version", (m) => `${m.version}${m.active ? " (active)" : ""}${m.share == null ? "" : ` (${percent(m.share)} of the inputs)`}`, "tight"],
    ...(several ? [["", (m) => (m.active ? null : named(button("Compare", `compare ${m.name}@${m.version}`, () => openShift(m.name, m.version)), `${m.name}@${m.version}`))]] : []),
    ["memory", (m) => (m.memory_bytes == null ? "released" : bytes(m.memory_bytes)), "n"],
    ["pass, p50", (m) => time(m.times?.pass_p50_ms), "n"], ["pass, p99", (m) => time(m.times?.pass_p99_ms), "n"],
    ["input, p50", (m) => time(m.times?.input_p50_ms), "n"], ["input, p99", (m) => time(m.times?.input_p99_ms), "n"],
    ["inputs scored", (m) => (m.times ? figures.format(m.times.inputs) : null), "n"],
    ["fleet: pass, p50", (m) => time(all(m)?.pass_p50_ms), "n"], ["fleet: pass, p99", (m) => time(all(m)?.pass_p99_ms), "n"],
    ["fleet: passes", (m) => (all(m) ? figures.format(all(m).passes) : null), "n"], ["fleet: inputs", (m) => (all(m) ? figures.format(all(m).inputs) : null), "n"],
    ["fleet: workers", (m) => (all(m) ? figures.format(all(m).workers) : null), "n"],
    ["architecture", (m) => m.architecture],
    ["output", (m) => (m.labels.length ? `${m.task}: ${m.labels.slice(0, 8).join(", ")}${m.labels.length > 8 ? ", …" : ""}` : m.task)],
    ["input", (m) => m.input], ["parameters", (m) => figures.format(m.parameters), "n"], ["shadow", (m) => m.shadow && shadowText(m.shadow), "wide"],
    ...(models.some((m) => m.training) ? trained : []),
  ], shown(models), "no models");
  const minutes = models.find((m) => m.times)?.times.minutes;
  const lately = minutes ? `within the last ${minutes} minutes` : "lately: there were none";
  const part = models.length > MAX_VERSIONS ? ` ${MAX_VERSIONS} of ${figures.format(models.length)} versions are shown: those that serve or scored something lately, and others.` : "";
  say("models-note", `On this worker: memory is that of a version's weights; times are those of its passes, and of each input in them, ${lately}. For the fleet: passes on all workers that are there, of each its 32 versions that scored most${fleet?.models ? "" : "; they can't be told now"}.${part}`);
};

function named(made, of) {
  made.setAttribute("aria-label", `${made.textContent}: ${of}`);
  return made;
}

/** How a version stands to the one that serves. */
const openShift = (name, version) => saying("models-said", async () => {
  const look = (looks += 1);
  const s = await fetchJson(`${modelPath(name, "shift")}?version=${encodeURIComponent(version)}`);
  const served = await servedBy(name, version);
  if (look !== looks) return s;
  compared = { name, version, from: s.from, shared: s.shared };
  $("shift-title").textContent = `${name}@${version}, compared with ${s.from ?? "none"}, which serves`;
  $("shift-facts").replaceChildren(facts([
    ["hot inputs", s.hot_inputs ? figures.format(s.hot_inputs) : "none: nothing of this model is asked for often enough lately"],
    ["would hit", s.warm_share == null ? null : `${percent(s.warm_share)} of the requests for them`],
    ["compared", s.compared ? `${figures.format(s.compared)} inputs that both versions scored` : "no input that both versions scored"],
    ["scores move by", s.mean == null ? null : `${number(s.mean)} on average, ${number(s.mean_absolute)} either way, ${number(s.max_absolute)} at most`],
    ["rank correlation", s.rank_correlation == null ? null : number(s.rank_correlation)], ["other labels", s.flips == null ? null : percent(s.flips)],
    ["share of the inputs", s.shared && `${percent(s.shared.share)} go to ${s.shared.version}`], ["served by", served],
  ]));
  for (const id of ["shift-warm", "shift-activate"]) $(id).hidden = !may("admin");
  $("shift-warm").disabled = !s.hot_inputs;
  $("shift-activate").textContent = `Activate ${version}`;
  if ($("shift").hidden) show("shift");
  return s;
});

$("shift-warm").addEventListener("click", async () => {
  const { name, version } = compared;
  const more = "Its hot inputs are scored with this version in the background, where nobody waits for them. Nothing is switched.";
  if (!(await confirmAction(`Warm ${name}@${version}?`, more, "Warm it"))) return;
  await saying("models-said", async () => {
    const done = await fetchJson(modelPath(name, "warm"), asJson({ version }));
    $("models-said").textContent = `Posted ${figures.format(done.posted)} of ${figures.format(done.hot_inputs)} hot inputs, in ${figures.format(done.jobs)} jobs.`;
  });
});

$("shift-activate").addEventListener("click", async () => {
  const { name, version, from, shared } = compared;
  const ends = shared ? ` This ends ${sharedText(name, shared)}: all of them go to ${version}.` : "";
  const known = [...document.querySelectorAll("#shift-facts dt")].map((name) => `${name.textContent}: ${name.nextSibling.textContent}`);
  const more = `${known.join("; ")}. All workers switch within a second.${ends} To go back, activate ${from ?? "the version before"}: its entries are still there.`;
  if (!(await confirmAction(`Activate ${name}@${version}?`, more, `Activate ${version}`))) return;
  await saying("models-said", async () => {
    const done = await fetchJson(modelPath(name, "activate"), asJson({ version }));
    const back = done.before ?? from;
    $("models-said").replaceChildren(`${name}@${version} is active; before it was ${back ?? "none"}.${endedText(name, done.ended)} `);
    if (back && back !== version) $("models-said").append(button(`Roll back to ${back}`, `back ${name}@${back}`, () => rollBack(name, back)));
    closeShift();
    await refresh("models");
  });
});

async function rollBack(name, version) {
  if (!(await confirmAction(`Roll back to ${name}@${version}?`, "All workers switch within a second, for all inputs: a share of another version ends. The entries of this version are still there.", "Roll back"))) return;
  await saying("models-said", async () => {
    const { ended } = await fetchJson(modelPath(name, "activate"), asJson({ version }));
    $("models-said").textContent = `${name}@${version} is active again.${endedText(name, ended)}`;
    await refresh("models");
  });
}

function closeShift() {
  looks += 1;
  hide("shift");
}

// What is on its way is of no use any more.
$("shift-close").addEventListener("click", () => { looks += 1; });
// How warm it is, and who serves it, as long as somebody looks; the next look follows once this one has its answer.
const lookAgain = async () => {
  if (compared && !$("shift").hidden && !document.hidden) await openShift(compared.name, compared.version);
  setTimeout(lookAgain, LOOK_MS);
};
setTimeout(lookAgain, LOOK_MS);
