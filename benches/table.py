"""Prints the figures of benches/run as one aligned table: medians over the rounds, and Kiln's ratio to the peer."""
import json, statistics, sys

rounds = {}
for line in open(sys.argv[1]):
    load, contender, figures = line.split(" ", 2)
    rounds.setdefault((load, contender), []).append(json.loads(figures))


def median(load, contender, name):
    return statistics.median(figures[name] for figures in rounds[load, contender])


def spread(load, contender):
    values = [figures["jobs_per_s"] for figures in rounds[load, contender]]
    return f"{min(values):,} to {max(values):,}"


print(f"{'load':8}{'worker':8}{'jobs/s':>10}{'spread':>22}{'inputs/s':>12}{'CPU µs/input':>14}")
for load, contender in sorted(rounds, key=lambda key: (key[0], key[1] == "kiln")):
    print(f"{load:8}{contender:8}{median(load, contender, 'jobs_per_s'):>10,.0f}{spread(load, contender):>22}"
          f"{median(load, contender, 'inputs_per_s'):>12,.0f}{median(load, contender, 'worker_cpu_us_per_input'):>14.2f}")
for load in sorted({load for load, contender in rounds if contender == "peer"}):
    faster = median(load, "kiln", "jobs_per_s") / median(load, "peer", "jobs_per_s")
    cheaper = median(load, "peer", "worker_cpu_us_per_input") / max(median(load, "kiln", "worker_cpu_us_per_input"), 0.01)
    print(f"{load}: Kiln does {faster:.2f} times the peer's jobs/s, with 1/{cheaper:.1f} of its CPU per input")
for load in sorted({load for load, contender in rounds if contender == "before"}):
    ratio = median(load, "kiln", "jobs_per_s") / median(load, "before", "jobs_per_s")
    print(f"{load}: {ratio:.2f} times the jobs/s of before")
if ("auto", "kiln") in rounds:
    ratio = median("auto", "kiln", "jobs_per_s") / median("auto", "always", "jobs_per_s")
    print(f"auto: {ratio:.2f} times the misses a second with cache.mode = \"auto\"")
if ("cluster", "kiln") in rounds:
    ratio = median("cluster", "kiln", "inputs_per_s") / median("single", "kiln", "inputs_per_s")
    print(f"cluster: {ratio:.2f} times the hits a second of a single Redis")
