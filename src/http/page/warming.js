"use strict";

// Schedules: their runs, what a run would do, and what operators do with them.

const RUNS = 20; // Of a schedule's history.
const inSeconds = (n) => (n == null ? "–" : time(1000 * n));

/** A state as a word that stands out where something failed. */
function stateText(words, isBad) {
  const made = element("span", words, isBad ? "failed" : null);
  if (isBad) made.prepend(element("span", "✕ ", "sign"));
  return made;
}

const wasBad = (run) => run.state === "failed" || run.failed > 0;
const runText = (run) => stateText([run.failed > 0 && run.state !== "failed" ? `${run.state}, ${figures.format(run.failed)} failed` : run.state, run.message].filter(Boolean).join(": "), wasBad(run));

/** What went wrong, one line each; nothing where nothing did. */
function complaints(id, lines) {
  if ($(id).dataset.said === lines.join("\n")) return;
  $(id).dataset.said = lines.join("\n");
  $(id).replaceChildren(...lines.map((line) => element("p", line)));
  $(id).hidden = !lines.length;
}

SECTIONS.schedules = async () => {
  const { schedules, problems } = await fetchJson("/v1/schedules");
  table("schedules-table", [
    ["schedule", (s) => button(s.name, `history ${s.name}`, () => openRuns(s.name))], ["cron", (s) => `${s.cron} (${s.time_zone})`],
    ["", (s) => {
      if (!may("admin")) return "";
      const container = element("div", null, "buttons");
      container.append(
        button("Dry run", `plan ${s.name}`, () => openPlan(s.name)), button("Run now", `run ${s.name}`, () => runNow(s.name)),
        button(s.paused ? "Resume" : "Pause", `pause ${s.name}`, () => pauseSchedule(s)),
      );
      for (const one of container.children) one.setAttribute("aria-label", `${one.textContent}: ${s.name}`);
      return container;
    }],
    ["next run", (s) => (s.paused ? "paused" : s.enabled ? when(s.next) : "off")],
    ["last run", (s) => when(s.last?.started_at)], ["result", (s) => (s.last ? runText(s.last) : null), "wide"],
    ["computed", (s) => (s.last ? figures.format(s.last.misses) : null), "n"], ["renewed", (s) => (s.last ? figures.format(s.last.hits) : null), "n"],
    ["left over", (s) => (s.last ? figures.format(s.last.left_over) : null), "n"], ["skipped", (s) => (s.last ? figures.format(s.last.skipped) : null), "n"],
    ["waiting saved", (s) => inSeconds(s.last?.saved_seconds), "n"],
  ], schedules, "no schedules");
  complaints("schedule-problems", problems);
};

const schedulePath = (name) => `/v1/schedules/${encodeURIComponent(name)}`;
const warmPath = (name) => `/v1/warm/${encodeURIComponent(name)}`;

async function runNow(name) {
  const more = "One worker plans it and posts its jobs, within the schedule's budget. Dry run shows what that would be.";
  if (!(await confirmAction(`Run ${name} now?`, more, "Run it"))) return;
  await saying("warm-said", async () => {
    const { run } = await fetchJson(warmPath(name), { method: "POST" });
    $("warm-said").textContent = `Run ${run} of ${name} is requested; its row says how far it is.`;
    await refresh("schedules");
  });
  if (!$("runs").hidden) await openRuns(name);
}

async function pauseSchedule({ name, paused }) {
  const [what, more] = paused
    ? ["resume", "It runs by itself again, at its next time. What it missed is made up for as its file says."]
    : ["pause", "No worker starts it by itself until it is resumed. A run that is under way goes on."];
  if (!(await confirmAction(`${paused ? "Resume" : "Pause"} ${name}?`, more, paused ? "Resume it" : "Pause it"))) return;
  await saying("warm-said", async () => {
    const { changed } = await fetchJson(`${schedulePath(name)}/${what}`, { method: "POST" });
    $("warm-said").textContent = changed ? `${name} is ${what}d on all workers.` : `${name} was ${what}d already.`;
    await refresh("schedules");
  });
}

/** The latest runs of a schedule: planned, warmed, skipped, saved, cost. */
const openRuns = (name) => saying("warm-said", async () => {
  const runs = await fetchJson(`/v1/warm/runs?limit=${RUNS}&schedule=${encodeURIComponent(name)}`);
  $("runs-title").textContent = `Runs of ${name}`;
  const ended = runs.filter((run) => run.finished_at);
  const sum = (of) => ended.reduce((all, run) => all + (of(run) ?? 0), 0);
  $("runs-sum").textContent = ended.length
    ? `The last ${figures.format(ended.length)} that ended computed ${figures.format(sum((r) => r.misses))} inputs and renewed ${figures.format(sum((r) => r.hits))}, for ${inSeconds(sum((r) => r.spent_seconds))} of model time; ${inSeconds(sum((r) => r.saved_seconds))} of waiting were expected to be saved.`
    : "None has ended yet.";
  table("runs-table", [
    ["run", (r) => String(r.run)], ["due", (r) => when(r.due_at)], ["took", (r) => (r.finished_at ? time(new Date(r.finished_at) - new Date(r.started_at)) : null), "n"],
    ["result", runText, "wide"], ["planned", (r) => figures.format(r.planned), "n"], ["computed", (r) => figures.format(r.misses), "n"], ["renewed", (r) => figures.format(r.hits), "n"],
    ["skipped", (r) => figures.format(r.skipped), "n"], ["left over", (r) => figures.format(r.left_over), "n"], ["bad rows", (r) => figures.format(r.bad), "n"],
    ["model time", (r) => `${inSeconds(r.spent_seconds)} of ${inSeconds(r.model_seconds)}`, "n"], ["waiting saved", (r) => inSeconds(r.saved_seconds), "n"], ["memory", (r) => bytes(r.kept_bytes), "n"],
  ], runs, "it has not run yet");
  show("runs");
});

/** What a run would post now. */
const openPlan = (name) => saying("warm-said", async () => {
  $("warm-said").textContent = `Planning ${name} …`;
  const plan = await fetchJson(`${warmPath(name)}/plan`, { method: "POST" });
  $("warm-said").textContent = "";
  $("plan-title").textContent = `What a run of ${name} would do now`;
  $("plan-facts").replaceChildren(facts([
    ["would post", `${figures.format(plan.inputs)} inputs in ${figures.format(plan.entries)} entries, as ${figures.format(plan.jobs)} jobs`],
    ["computed", `${figures.format(plan.computes)} inputs, ${inSeconds(plan.model_seconds)} of model time${plan.costs_are_measured || !plan.computes ? "" : ", a guess: no call has measured it"}`],
    ["renewed", `${figures.format(plan.renewals)} inputs, ${figures.format(plan.from_table)} of them from the table of scores`],
    ["fresh enough", `${figures.format(plan.fresh)} inputs`], ["left over", `${figures.format(plan.left_over)} inputs`],
    ["waiting saved", plan.saved_seconds == null ? null : inSeconds(plan.saved_seconds)],
    ["memory", plan.max_bytes == null ? bytes(plan.kept_bytes) : `${bytes(plan.kept_bytes)} of ${bytes(plan.max_bytes)}`],
    ["message", plan.message && stateText(plan.message, plan.bad > 0)],
  ]));
  table("plan-table", [
    ["entry", (p) => p.key ?? "(a score)"], ["inputs", (p) => figures.format(p.inputs), "n"], ["computed", (p) => figures.format(p.computes), "n"],
    ["asked a second", (p) => number(p.rate), "n"], ["cost", (p) => inSeconds(p.cost_seconds), "n"], ["saves", (p) => inSeconds(p.saves_seconds), "n"],
    ["its entry", (p) => (p.seconds_left == null ? "not there" : p.seconds_left < 0 ? `in its grace time for ${inSeconds(-p.seconds_left)}` : `ends in ${inSeconds(p.seconds_left)}`)],
  ], plan.first, "nothing");
  show("plan");
});
