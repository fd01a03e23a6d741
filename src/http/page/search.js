"use strict";

// One field for a job's id, a namespace, or a namespace and a key.

const NAME = /^[a-z0-9_-]{1,64}$/;
const TRIED = 10; // Namespaces in which a key without one is looked for.

/** What a path has, or null where there is nothing of that name, or no such name can be. */
async function lookUp(path) {
  const response = await request(path);
  if (response.status === 404 || response.status === 400) return null;
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? body.error.message : `${path}: ${response.status}`);
  return body;
}

const keyPath = (namespace, name) => `/v1/keys/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}?limit=20`;
const explained = (namespace, name) => (NAME.test(namespace) && name && may("read:all") ? lookUp(keyPath(namespace, name)) : null);

function foundText(now) {
  if (now.state === "entry") return [now.value?.label, now.value?.score].filter((part) => part != null).join(" ") || "an embedding";
  if (now.state === "ranking") return `a ranking: ${(now.value?.items ?? []).slice(0, 5).map((item) => (Array.isArray(item) ? item.join(" ") : JSON.stringify(item))).join(", ")}`;
  return { absent: "nothing", unreadable: "what Kiln didn't write" }[now.state] ?? "not known";
}

function showKey(e) {
  const { now, input, heat } = e;
  $("found-title").textContent = `Key ${e.key} in ${e.namespace}`;
  const every = (rate) => (rate == null ? null : `${fine.format(rate)} per second`);
  $("found-facts").replaceChildren(facts([
    ["readers find", foundText(now)], ["model", now.model && `${now.model}@${now.version}`],
    ["job", now.job_id && button(now.job_id, `job ${now.job_id}`, () => openJob(now.job_id))],
    ["scored", when(now.scored_at)], ["served until", when(now.expires_at)], ["of that, grace time", now.grace_ms ? time(now.grace_ms) : null],
    ["text", input?.text], ["text pair", input?.text_pair], ["features", input?.features?.join(", ")],
    ["reads", every(heat.reads_per_second)], ["requests of jobs", every(heat.jobs_per_second)], ["not known", e.unknown.join("; ")],
  ]));
  table("warms-table", [
    ["schedule", (w) => w.schedule], ["next run", (w) => when(w.next)], ["warms it", (w) => w.warms], ["why", (w) => w.why, "wide"],
  ], e.warming, "no schedule of this namespace");
  table("past-table", [
    ["from", (p) => when(p.from)], ["until", (p) => when(p.until) ?? (p.is_now ? "now" : null)],
    ["said", (p) => (p.removed ? "removed" : [p.label, p.score].filter((part) => part != null).join(" ") || (p.items ? "a ranking" : null))],
    ["model", (p) => `${p.model}@${p.version}`], ["job", (p) => (p.job_id ? button(p.job_id, `job ${p.job_id}`, () => openJob(p.job_id)) : "by hand")],
  ], e.history, "no history");
  show("found");
}

/** The namespaces that this worker has seen most. */
async function namespaces() {
  const patterns = await fetchJson("/v1/cache/stats/top-patterns?limit=50");
  return [...new Set(patterns.map((one) => one.pattern.split("/")[0]))].filter((name) => NAME.test(name)).slice(0, TRIED);
}

async function search(text) {
  $("found").hidden = true;
  $("job-detail").hidden = true;
  location.hash = "jobs";
  const [first, rest] = [text.split(/\s+/, 1)[0], text.replace(/^\S+\s*/, "")];
  if (rest) {
    const key = await explained(first, rest);
    if (key) return showKey(key);
  }
  const job = await lookUp(`/v1/jobs/${encodeURIComponent(text)}?inputs=true`);
  if (job) return showJob(job);
  if (NAME.test(text)) {
    const page = await lookUp(`/v1/jobs?namespace=${text}&limit=1`);
    if (page?.jobs.length) return listJobs(new URLSearchParams({ namespace: text }));
  }
  const begun = await lookUp(`/v1/jobs?id_prefix=${encodeURIComponent(text)}&limit=1`);
  if (begun?.jobs.length) return listJobs(new URLSearchParams({ id_prefix: text }));
  for (const namespace of await namespaces()) {
    const key = await explained(namespace, text);
    if (key) return showKey(key);
  }
  throw new Error(`Nothing is known of ${text}: no job of that id has ended or is here, no job of such a namespace was found, and no key of the namespaces that this worker serves most. For a key of another one, write the namespace before it.${may("read:all") ? "" : " This API key sees its own jobs alone: others, and keys, are shown with the scope read:all."}`);
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("search-text").value.trim();
  if (text) saying("jobs-said", () => search(text));
});
