"""How much memory a worker takes at most: at rest, while it works off a long queue, large bodies, and quick jobs behind slow ones.
Memory must follow what may be in hand, not the queue."""
import argparse, json, os, pathlib, random, sys, time, uuid
sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
import pika, psycopg
from expensive import WIDTH, make_model
from worker import Worker
from workload import bodies

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--jobs", type=int, default=100_000)
a.add_argument("--inputs", type=int, default=8)
a.add_argument("--large", type=int, default=300, help="bodies of 4 MB")
a.add_argument("--behind", type=int, default=500_000, help="quick jobs behind slow ones")
a.add_argument("--timeout", type=float, default=600)
args = a.parse_args()

db = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
choose = random.Random(3)


def waiting():
    """Jobs of eight inputs, most of them known."""
    yield from (body for _, body in bodies(args.jobs, args.inputs, 5000, seed=5))


def large():
    """Jobs of 4,096 texts, 4 MB each; half of the texts are new."""
    words = [f"word{n}" for n in range(2_000)]
    known = [" ".join(choose.choices(words, k=125)) for _ in range(2_048)]
    for n in range(args.large):
        texts = known + [f"{n} {i} " + choose.choice(known) for i in range(2_048)]
        yield json.dumps({"job_id": f"large-{n}", "model": "sentiment", "inputs": [{"text": text} for text in texts]}).encode()


def behind():
    """Two jobs of a slow model, of some seconds each, and quick jobs of one known input."""
    for n in range(2):
        inputs = [{"features": [choose.random() for _ in range(WIDTH)]} for _ in range(4_096)]
        yield json.dumps({"job_id": f"slow-{n}", "model": "expensive", "inputs": inputs}).encode()
    for n in range(args.behind):
        yield json.dumps({"job_id": f"quick-{n}", "model": "sentiment", "inputs": [{"text": f"a fine thing, number {n % 100}"}]}).encode()


def peak(name, jobs):
    """Posts jobs, and gives the most memory that a worker takes while it works them off."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    run, count, size = uuid.uuid4().hex[:8], 0, 0
    for body in jobs:
        body = body.replace(b'"job_id": "', b'"job_id":"', 1).replace(b'"job_id":"', f'"job_id":"{run}-'.encode(), 1)
        channel.basic_publish("", "kiln.jobs", body, pika.BasicProperties(delivery_mode=2))
        count, size = count + 1, size + len(body)
    connection.close()
    with Worker(args.kiln) as worker:
        begun = time.monotonic()
        while (done := db.execute("select count(*) from jobs where job_id like %s", (f"{run}-%",)).fetchone()[0]) < count:
            if time.monotonic() > begun + args.timeout:
                raise SystemExit(f"only {done} of {count} jobs after {args.timeout:.0f} s")
            time.sleep(0.5)
        print(f"{name:46}{worker.peak_mib():>10.0f}{count:>12,}{size / 2**20:>12,.0f}{time.monotonic() - begun:>10.0f}", flush=True)


print(f"{'memory':46}{'peak MiB':>10}{'jobs':>12}{'MiB posted':>12}{'seconds':>10}")
with Worker(args.kiln) as idle:  # it also declares the queue
    print(f"{'idle':46}{idle.peak_mib():>10.0f}")
peak("a long queue", waiting())
peak("large bodies", large())
make_model(pathlib.Path(os.environ["KILN_MODELS_DIR"]) / "expensive" / "1")
with Worker(args.kiln) as idle:
    print(f"{'idle, with the slow model':46}{idle.peak_mib():>10.0f}")
peak("quick jobs behind slow ones", behind())
