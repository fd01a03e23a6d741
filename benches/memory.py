"""How much memory a worker takes at most while it works off a long queue: memory must follow prefetch and batches, not the queue."""
import argparse, os, pathlib, sys, time, uuid
sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
import pika, psycopg
from worker import Worker
from workload import bodies

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--jobs", type=int, default=100_000)
a.add_argument("--inputs", type=int, default=8)
a.add_argument("--timeout", type=float, default=600)
args = a.parse_args()

db = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
run = uuid.uuid4().hex[:8]
with Worker(args.kiln) as idle:  # it also declares the queue
    resting = idle.peak_mib()
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
for job_id, body in bodies(args.jobs, args.inputs, 5000, seed=5):
    body = body.replace(job_id.encode(), f"{run}-{job_id}".encode(), 1)
    channel.basic_publish("", "kiln.jobs", body, pika.BasicProperties(delivery_mode=2))
connection.close()

with Worker(args.kiln) as worker:
    deadline = time.monotonic() + args.timeout
    while (done := db.execute("select count(*) from jobs where job_id like %s", (f"{run}-%",)).fetchone()[0]) < args.jobs:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {done} of {args.jobs} jobs after {args.timeout:.0f} s")
        time.sleep(0.2)
    print(f"{'peak memory, MiB':24}{'idle':>8}{resting:>10.0f}\n{'':24}{f'{args.jobs:,} jobs waiting':>8}{worker.peak_mib():>10.0f}")
