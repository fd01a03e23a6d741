"""64 clients at once (wrk) that ask over HTTP for one known input each, beside an earlier release where one is given, each with a database and Redis of its own."""
import argparse, json, os, pathlib, re, statistics, subprocess, tempfile, urllib.request
import psycopg
from worker import Worker

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--before", help="the binary of an earlier release")
a.add_argument("--clients", type=int, default=64)
a.add_argument("--seconds", type=int, default=8)
a.add_argument("--rounds", type=int, default=3)
args = a.parse_args()
address = os.environ["KILN_HTTP_ADDR"]

SCRIPT = """
local count = 0
request = function()
  count = count %% %d + 1
  return wrk.format("POST", "/v1/score", nil, '{"model": "sentiment", "text": "a fine thing, client ' .. count .. '"}')
end
"""


def own_servers(number):
    url, name = os.environ["DATABASE_URL"], f"http_{number}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return {"DATABASE_URL": f"{url.rsplit('/', 1)[0]}/{name}", "REDIS_URL": f"{os.environ['REDIS_URL'].rsplit('/', 1)[0]}/{number}"}


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The earlier one first: it may not know a queue as a later one declares it.
releases = ([("before", args.before)] if args.before else []) + [("this", args.kiln)]
releases = [(name, kiln, own_servers(number)) for number, (name, kiln) in enumerate(releases, 1)]
figures = {name: [] for name, *_ in releases}
script = pathlib.Path(tempfile.mkdtemp()) / "ask.lua"
script.write_text(SCRIPT % args.clients)
print(f"{'release':10}{'requests/s':>12}{'median':>10}{'p99':>10}{'CPU µs each':>14}")
for round in range(args.rounds):
    for name, kiln, settings in releases:
        with Worker(kiln, **settings) as worker:
            wrk = ["wrk", "--threads", "1", "--connections", str(args.clients), "--script", str(script), "--latency", f"http://{address}"]
            subprocess.run([*wrk, "--duration", "1s"], check=True, capture_output=True)
            before = cpu(worker.process.pid)
            told = subprocess.run([*wrk, "--duration", f"{args.seconds}s"], check=True, capture_output=True, text=True).stdout
            used = cpu(worker.process.pid) - before
        if "Non-2xx" in told:
            raise SystemExit(told)
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])
        median, p99 = (re.search(rf"{share}%\s+(\S+)", told)[1] for share in (50, 99))
        figures[name].append(rate)
        print(f"{name:10}{rate:>12,.0f}{median:>10}{p99:>10}{1e6 * used / (rate * args.seconds):>14.1f}", flush=True)
if args.before:
    print(f"{statistics.median(figures['this']) / statistics.median(figures['before']):.2f} times the rate of before")
