"""What many idle workers cost one set of servers, and how long it takes until all of them know of a change."""
import argparse, concurrent.futures, json, os, pathlib, shutil, socket, statistics, subprocess, time, urllib.parse, urllib.request
import psycopg, redis

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--workers", type=int, default=40)
a.add_argument("--seconds", type=float, default=30)
a.add_argument("--changes", type=int, default=10)
args = a.parse_args()
database, cache = os.environ["DATABASE_URL"], redis.from_url(os.environ["REDIS_URL"])
db = psycopg.connect(database, autocommit=True)
models = pathlib.Path(os.environ["KILN_MODELS_DIR"])
one = models / "feed-ranker" / "1"
if not (models / "feed-ranker" / "2").exists():
    shutil.copytree(one, models / "feed-ranker" / "2")


def ask(worker, method, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{worker.port}{path}", method=method, data=body and json.dumps(body).encode(),
                                     headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


class Worker:
    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as held:
            self.port = held.getsockname()[1]
        environment = os.environ | {"KILN_HTTP_ADDR": f"127.0.0.1:{self.port}"}
        self.process = subprocess.Popen([args.kiln, "run"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_up(self):
        try:
            return ask(self, "GET", "/health")["status"] == "ready"
        except OSError:
            return False

    def cpu(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self):
        return int(open(f"/proc/{self.process.pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connections(url):
    """Established connections to a server's port, from its clients' side."""
    port = f":{urllib.parse.urlsplit(url).port:04X}"
    rows = (line.split() for line in open("/proc/net/tcp").readlines()[1:])
    return sum(1 for fields in rows if fields[2].endswith(port) and fields[3] == "01")


def counters():
    transactions = db.execute("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").fetchone()[0]
    info = cache.info()
    return transactions, info["total_commands_processed"], info["total_net_input_bytes"] + info["total_net_output_bytes"], sum(w.cpu() for w in workers)


def until_all(what, change, knows):
    """Seconds from a change until each worker knows of it."""
    begun = time.monotonic()
    change()

    def wait(worker):
        while not knows(worker):
            if time.monotonic() > begun + 60:
                raise SystemExit(f"{what}: a worker doesn't know after a minute")
            time.sleep(0.01)
        return time.monotonic() - begun
    return list(pool.map(wait, workers))


def active(version):
    def knows(worker):
        found = [m for m in ask(worker, "GET", "/v1/models") if m["name"] == "feed-ranker" and m["version"] == version]
        return bool(found) and found[0]["active"]
    return knows


workers = [Worker() for _ in range(args.workers)]
pool = concurrent.futures.ThreadPoolExecutor(args.workers)
try:
    deadline = time.monotonic() + 120
    while not all(worker.is_up() for worker in workers):
        if time.monotonic() > deadline:
            raise SystemExit("not all workers are ready after two minutes")
        time.sleep(0.5)
    # What the start needed is given back, and the servers' own counters have it.
    time.sleep(20)
    held = [connections(os.environ[name]) for name in ("DATABASE_URL", "REDIS_URL", "AMQP_URL")]
    before, begun = counters(), time.monotonic()
    time.sleep(args.seconds)
    rates = [(now - then) / (time.monotonic() - begun) for then, now in zip(before, counters())]
    n = args.workers
    print(f"{n} idle workers{'all':>24}{'each':>12}")
    for what, rate in zip(("Postgres transactions/s", "Redis commands/s", "Redis bytes/s"), rates):
        print(f"{what:28}{rate:>10,.1f}{rate / n:>12,.2f}")
    print(f"{'CPU, ms/s':28}{1e3 * rates[3]:>10,.1f}{1e3 * rates[3] / n:>12,.2f}")
    print(f"{'resident, MiB':28}{sum(w.resident() for w in workers) / 2**20:>10,.0f}{sum(w.resident() for w in workers) / 2**20 / n:>12,.1f}")
    for what, count in zip(("Postgres", "Redis", "RabbitMQ"), held):
        print(f"{f'connections to {what}':28}{count:>10}{count / n:>12,.2f}")

    times = {"pause": [], "activation": [], "invalidation": []}
    for change in range(args.changes):
        by = workers[change % n]
        times["pause"] += until_all("pause", lambda: ask(by, "POST", "/v1/intake/pause"), lambda w: ask(w, "GET", "/health")["status"] == "paused")
        until_all("resume", lambda: ask(by, "POST", "/v1/intake/resume"), lambda w: ask(w, "GET", "/health")["status"] == "ready")
        version = str(1 + change % 2)
        activate = lambda: subprocess.run([args.kiln, "models", "activate", f"feed-ranker@{version}"], check=True, stdout=subprocess.DEVNULL)
        times["activation"] += until_all("activation", activate, active(version))
        # Each worker has an input of its own, which it goes on finding in the cache until it knows.
        own = {id(w): {"job_id": None, "model": "feed-ranker", "namespace": "fleet", "inputs": [{"features": [float(number)] * 32}]} for number, w in enumerate(workers)}

        def score(worker):
            body = own[id(worker)] | {"job_id": f"{change}-{worker.port}-{time.monotonic_ns()}"}
            return ask(worker, "POST", "/v1/score/batch", body)
        for worker in workers:
            score(worker)
        times["invalidation"] += until_all("invalidation", lambda: ask(by, "POST", "/v1/cache/invalidate/fleet"), lambda w: score(w)["misses"] == 1)
    print(f"\nuntil all know{'median ms':>24}{'p99 ms':>12}{'most ms':>12}")
    for what, all in times.items():
        all.sort()
        print(f"{what:28}{1e3 * statistics.median(all):>10,.0f}{1e3 * all[min(len(all) - 1, int(len(all) * 0.99))]:>12,.0f}{1e3 * all[-1]:>12,.0f}")
finally:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.wait(60)
