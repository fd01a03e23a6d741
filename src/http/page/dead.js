"use strict";

// The dead letters: looked at, posted again, deleted. A look is somebody's: others don't get the letters meanwhile.

let deadAsked = new URLSearchParams();

async function showDead(asked) {
  const dead = await fetchJson(`/v1/dead?${asked}`);
  deadAsked = asked;
  const part = dead.looked_at < dead.waiting ? `, of which ${figures.format(dead.looked_at)} were looked at` : "";
  $("dead-said").textContent = `${figures.format(dead.waiting)} letters in the queue${part}; the latest ${figures.format(dead.letters.length)} of these are shown.`;
  const act = (what, request, words) => (may("admin") ? button(what, `${what} ${words}`, () => settleDead(what, request, words)) : null);
  const both = (request, words) => {
    const container = element("div", null, "buttons");
    for (const one of [act("Replay", request, words), act("Purge", request, words)]) {
      if (one) one.setAttribute("aria-label", `${one.textContent}: ${words}`);
      if (one) container.append(one);
    }
    return container;
  };
  const named = (g) => Object.fromEntries(Object.entries({ code: g.code, model: g.model }).filter(([, value]) => value));
  table("groups-table", [
    ["code", (g) => g.code ?? "none"], ["model", (g) => g.model ?? "not one that can be read"], ["letters", (g) => figures.format(g.letters), "n"],
    ["first", (g) => when(g.first)], ["last", (g) => when(g.last)],
    ["", (g) => (g.code && g.model ? both(named(g), `${figures.format(g.letters)} letters with code ${g.code} of model ${g.model}`) : null)],
  ], dead.groups, "no dead letters");
  table("dead-table", [
    ["job", (l) => (l.job_id ? button(l.job_id, `letter ${l.job_id}`, () => openLetter(l.job_id)) : "no id")], ["failed", (l) => when(l.failed_at)],
    ["code", (l) => l.code], ["model", (l) => l.model], ["field", (l) => l.field || null], ["reason", (l) => l.message, "wide"], ["bytes", (l) => figures.format(l.bytes), "n"],
    ["", (l) => (l.job_id ? both({ ids: [l.job_id] }, `the letter of job ${l.job_id}`) : null)],
  ], dead.letters, "none");
}

async function settleDead(what, request, words) {
  const more = what === "Replay"
    ? "Their jobs go to the queues that they came from, as their producers posted them. A letter is removed once the broker has its job."
    : "They are deleted for good.";
  if (!(await confirmAction(`${what} ${words}?`, more, what))) return;
  await saying("dead-done", async () => {
    const done = await fetchJson(`/v1/dead/${what.toLowerCase()}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
    const left = done.left.length ? ` ${figures.format(done.left.length)} stay: ${done.left[0].why}.` : "";
    const part = done.looked_at < done.waiting ? " Not all letters were looked at: ask again." : "";
    $("dead-done").textContent = `${what === "Replay" ? "Posted again" : "Deleted"}: ${figures.format(done.done)}.${left}${part}`;
    if (what === "Replay" && done.job_ids.length) {
      $("dead-done").append(" What became of them: ", ...done.job_ids.slice(0, 10).flatMap((id) => [button(id, `after ${id}`, () => openJob(id)), " "]));
    }
    await showDead(deadAsked);
  });
}

const openLetter = (id) => saying("dead-said", async () => {
  const [letter] = await fetchJson(`/v1/dead/${encodeURIComponent(id)}`);
  $("letter-title").textContent = `Letter of job ${id}`;
  const shown = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  $("letter-facts").replaceChildren(facts([
    ...Object.entries(letter.properties).map(([name, value]) => [name, shown(value)]), ...Object.entries(letter.headers).map(([name, value]) => [name, shown(value)]),
  ]));
  $("letter-body").textContent = letter.body_omitted ? "more than 256 KiB: kiln dead show has it" : letter.body_text ?? JSON.stringify(letter.body, null, 2);
  show("letter");
});

$("dead-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = new URLSearchParams([...new FormData($("dead-form"))].filter(([, value]) => value));
  saying("dead-said", () => showDead(asked));
});
