"""What names cost: jobs whose inputs are all known, once as they are and once with `"named": true`, beside an earlier release where one is given.
Contenders take turns; each has a database of its own."""
import argparse, json, os, pathlib, signal, statistics, subprocess, sys, time, urllib.parse
import pika, psycopg, redis
sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from workload import bodies, every_distinct

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--before", help="the binary of an earlier release")
a.add_argument("--jobs", type=int, default=20_000)
a.add_argument("--inputs", type=int, default=8)
a.add_argument("--distinct", type=int, default=5_000)
a.add_argument("--rounds", type=int, default=3)
args = a.parse_args()
database = urllib.parse.urlsplit(os.environ["DATABASE_URL"])


def database_of(contender):
    name = f"named_{contender}"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
        if not db.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            db.execute(f"CREATE DATABASE {name}")
    return database._replace(path=f"/{name}").geturl()


def publish(jobs):
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    count = 0
    for _, body in jobs:
        channel.basic_publish("", "kiln.jobs", body, pika.BasicProperties(delivery_mode=2, content_type="application/json"))
        count += 1
    while channel.queue_declare("kiln.jobs", passive=True).method.message_count < count:
        time.sleep(0.05)
    connection.close()
    return count


class Worker:
    def __init__(self, command, url):
        self.command, self.url = command, url

    def __enter__(self):
        self.process = subprocess.Popen(self.command, env=os.environ | {"DATABASE_URL": self.url}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def cpu(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def until_done(url, prefix, count, worker):
    """Jobs a second and the worker's CPU microseconds a job between the first and the last row."""
    first, deadline = None, time.monotonic() + 300
    with psycopg.connect(url, autocommit=True) as db:
        while time.monotonic() < deadline:
            done = 0
            if db.execute("SELECT to_regclass('jobs')").fetchone()[0]:
                done = db.execute("SELECT count(*) FROM jobs WHERE job_id LIKE %s", (f"{prefix}%",)).fetchone()[0]
            now = time.monotonic()
            if done and first is None:
                first, at_first, cpu = now, done, worker.cpu()
            if done >= count:
                jobs = done - at_first
                return jobs / (now - first), 1e6 * (worker.cpu() - cpu) / jobs
            time.sleep(0.05)
    raise SystemExit(f"only {done} of {count} jobs are done")


def measure(command, url, named, seed):
    with psycopg.connect(url, autocommit=True) as db:
        for table in ("jobs", "scores", "served"):
            if db.execute("SELECT to_regclass(%s)", (table,)).fetchone()[0]:
                db.execute(f"TRUNCATE {table} CASCADE")
    redis.from_url(os.environ["REDIS_URL"]).flushdb()
    for prefix, jobs in (("warm-", every_distinct(args.distinct)), ("bench-", bodies(args.jobs, args.inputs, args.distinct, seed=seed))):
        if named and prefix == "bench-":
            jobs = ((job_id, json.dumps(json.loads(body) | {"named": True}, separators=(",", ":")).encode()) for job_id, body in jobs)
        count = publish(jobs)
        with Worker(command, url) as worker:
            figures = until_done(url, prefix, count, worker)
    return figures


# The earlier release declares its queues first: it may refuse arguments that this one tolerates.
contenders = ({"before": [args.before, "run"]} if args.before else {}) | {"now": [args.kiln, "run"]}
figures = {}
# The queue is there once a worker has run; a database that was just made spends its first minute making log files.
for contender, command in contenders.items():
    with Worker(command, database_of(contender)):
        time.sleep(3)
for round in range(args.rounds + 1):
    for contender, command in contenders.items():
        for what in ("plain", "named"):
            figure = measure(command, database_of(contender), what == "named", 2 + round)
            if round:
                figures.setdefault((contender, what), []).append(figure)
print(f"{'worker':10}{'jobs':10}{'jobs/s':>10}{'CPU µs/job':>12}{'spread':>20}")
rate = {}
for (contender, what), all in figures.items():
    rates = [one[0] for one in all]
    rate[contender, what] = statistics.median(rates)
    print(f"{contender:10}{what:10}{rate[contender, what]:>10,.0f}{statistics.median(one[1] for one in all):>12.1f}{f'{min(rates):,.0f} to {max(rates):,.0f}':>20}")
for contender in contenders:
    print(f"{contender}: a named job takes {rate[contender, 'plain'] / rate[contender, 'named']:.2f} times as long as a plain one")
if args.before:
    print(f"a named job takes {rate['before', 'named'] / rate['now', 'named']:.2f} times as long as before, a plain one {rate['before', 'plain'] / rate['now', 'plain']:.2f} times")
