"use strict";

// Finding jobs, and showing one. Nothing here is asked for by itself: each look is somebody's.

const RESULTS_SHOWN = 50;
let jobsAsked = new URLSearchParams();

const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (className) made.className = className;
  return made;
};

/** A list of names and values; what has no value is left out. */
function facts(pairs) {
  const list = element("dl", null, "facts");
  for (const [name, value] of pairs) {
    if (value == null || value === "") continue;
    const cell = element("dd");
    cell.append(value);
    list.append(element("dt", name), cell);
  }
  return list;
}

const jobModel = (job) => (job.version ? `${job.model}@${job.version}` : job.model);

/** Shows a page of jobs; `asked` is its query. */
async function listJobs(asked) {
  const page = await fetchJson(`/v1/jobs?${asked}`);
  jobsAsked = new URLSearchParams(asked);
  if (page.cursor) jobsAsked.set("cursor", page.cursor);
  $("jobs-older").hidden = !page.cursor;
  const byId = asked.has("id_prefix");
  $("jobs-older").textContent = byId ? "Go on" : page.jobs.length ? "Older" : "Look further back";
  const count = `${figures.format(page.jobs.length)} jobs on this page`;
  const until = page.cursor && (byId ? page.looked_until : when(page.looked_until));
  $("jobs-said").replaceChildren(...(page.cursor ? [`${count}, looked through ${figures.format(page.looked_at)} until `, until, "."] : [`${count}, and that is all.`]));
  table("jobs-table", [
    ["job", (j) => button(j.job_id, `job ${j.job_id}`, () => openJob(j.job_id))], ["ended", (j) => when(j.finished_at)],
    ["status", (j) => [j.status, j.code].filter(Boolean).join(": ")], ["model", jobModel], ["namespace", (j) => j.namespace],
    ["cached", (j) => figures.format(j.hits), "n"], ["scored", (j) => figures.format(j.misses), "n"], ["took", (j) => time(j.elapsed_ms), "n"],
  ], page.jobs, "none on this page");
}

/** A result in a few words. */
function resultText(result) {
  if (result.error) return `error: ${result.error.message}`;
  if (result.removed) return "removed";
  if (result.embedding) return `an embedding of ${figures.format(result.embedding.length)} values`;
  return [result.label, result.score].filter((part) => part != null).join(" ");
}

function showJob(job) {
  const texts = new Map((job.inputs ?? []).map((input) => [input.key, [input.text, input.text_pair, input.features?.join(", ")].filter(Boolean).join(" | ")]));
  const all = job.results ?? [];
  $("job-title").textContent = `Job ${job.job_id}`;
  $("job-facts").replaceChildren(facts([
    ["status", job.status], ["model", job.model && jobModel(job)], ["namespace", job.namespace],
    ["inputs", job.hits == null ? null : `${figures.format(job.hits)} cached, ${figures.format(job.misses)} scored`],
    ["took", job.elapsed_ms == null ? null : time(job.elapsed_ms)], ["ended", when(job.finished_at)],
    ["code", job.error?.code], ["field", job.error?.field], ["reason", job.error?.message],
    ["results", job.results_omitted ? "weren't stored" : all.length > RESULTS_SHOWN ? `the first ${RESULTS_SHOWN} of ${figures.format(all.length)}` : null],
  ]));
  $("job-results").hidden = !all.length;
  table("job-table", [
    ["key", (r) => r.key], ["result", resultText], ["from", (r) => (r.cached == null ? null : [r.cached ? "cache" : "model", r.version].filter(Boolean).join(", "))],
    ["input, where it is stored", (r) => texts.get(r.key), "wide"],
  ], all.slice(0, RESULTS_SHOWN), "none");
  show("job-detail");
}

const openJob = (id) => saying("jobs-said", async () => showJob(await fetchJson(`/v1/jobs/${encodeURIComponent(id)}?inputs=true`)));

/** What the form says, as a query. */
function jobsWanted() {
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData($("jobs-form"))) {
    if (!value) continue;
    asked.set(name, name === "from" || name === "to" ? new Date(utc ? `${value}Z` : value).toISOString() : value.trim());
  }
  return asked;
}

$("jobs-form").addEventListener("submit", (event) => {
  event.preventDefault();
  saying("jobs-said", () => listJobs(jobsWanted()));
});
$("jobs-older").addEventListener("click", () => saying("jobs-said", () => listJobs(jobsAsked)));
