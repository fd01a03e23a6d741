"""What the audit costs a busy worker: 64 clients (wrk) ask for known inputs over HTTP while names and scores in Redis are audited again and again, and not at all."""
import argparse, json, os, pathlib, re, statistics, subprocess, tempfile, time, urllib.request
import pika, psycopg
from worker import Worker

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--jobs", type=int, default=2_000)
a.add_argument("--seconds", type=int, default=15)
a.add_argument("--rounds", type=int, default=2)
args = a.parse_args()
address = os.environ["KILN_HTTP_ADDR"]
script = pathlib.Path(tempfile.mkdtemp()) / "ask.lua"
script.write_text("""
local count = 0
request = function()
  count = count % 64 + 1
  return wrk.format("POST", "/v1/score", nil, '{"model": "sentiment", "text": "a fine thing, client ' .. count .. '"}')
end
""")


def audited():
    """Seconds that audits have taken so far."""
    page = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    found = re.findall(r"^kiln_audit_duration_seconds_sum\S* (\S+)", page, re.M)
    return sum(map(float, found))


def fill():
    """Names with scores: something to audit."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    for n in range(args.jobs):
        inputs = [{"key": f"k{n}-{i}", "text": f"a thing number {n} of {i}"} for i in range(8)]
        body = json.dumps({"job_id": f"audit-{n}", "model": "sentiment", "named": True, "inputs": inputs})
        channel.basic_publish("", "kiln.jobs", body, pika.BasicProperties(delivery_mode=2))
    connection.close()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
        while db.execute("SELECT count(*) FROM jobs WHERE job_id LIKE 'audit-%'").fetchone()[0] < args.jobs:
            time.sleep(0.1)


rates = {}
print(f"{'audit':12}{'requests/s':>12}{'of its time':>14}")
for round in range(args.rounds):
    for what, settings in (("off", {"KILN_AUDIT__ENABLED": "false"}), ("each second", {"KILN_AUDIT__INTERVAL_SECONDS": "1"})):
        with Worker(args.kiln, **settings):
            if not rates:
                fill()
            wrk = ["wrk", "--threads", "1", "--connections", "64", "--script", str(script), f"http://{address}"]
            subprocess.run([*wrk, "--duration", "1s"], check=True, capture_output=True)
            before, begun = audited(), time.monotonic()
            told = subprocess.run([*wrk, "--duration", f"{args.seconds}s"], check=True, capture_output=True, text=True).stdout
            share = (audited() - before) / (time.monotonic() - begun)
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])
        rates.setdefault(what, []).append(rate)
        print(f"{what:12}{rate:>12,.0f}{share:>14.1%}", flush=True)
print(f"{statistics.median(rates['each second']) / statistics.median(rates['off']):.3f} times the rate with audits")
