"""How long a lone job takes from its post to its reply, on an idle worker: every input new, then every input known."""
import argparse, json, pathlib, random, sys, uuid
sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from worker import Client, Worker, summary
from workload import bodies

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--jobs", type=int, default=500)
a.add_argument("--inputs", type=int, default=8)
args = a.parse_args()

run, pauses = uuid.uuid4().hex[:8], random.Random(1)
with Worker(args.kiln):
    client = Client()
    print(f"{'lone jobs':12}{'median ms':>12}{'p95 ms':>10}{'p99 ms':>10}")
    for what in ("warm-up", "misses", "hits"):
        seconds = []
        count, seed = (50, 8) if what == "warm-up" else (args.jobs, 9)
        for job_id, body in bodies(count, args.inputs, 0, seed=seed):
            body = json.dumps(json.loads(body) | {"job_id": f"{run}-{what}-{job_id}"}).encode()
            client.pause(pauses.uniform(0.005, 0.020))
            seconds.append(client.ask(body)[0])
        if what != "warm-up":
            print(f"{what:12}" + "{:>12.2f}{:>10.2f}{:>10.2f}".format(*summary(seconds)))
