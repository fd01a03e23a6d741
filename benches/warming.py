"""What warming costs: 100,000 missing entries by one run, beside jobs that miss as much and beside single writes; then what a
full warming queue costs producers' jobs."""
import argparse, json, os, pathlib, random, subprocess, sys, threading, time, uuid
import pika
sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from worker import Client, Worker, summary
from workload import bodies

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--inputs", type=int, default=100_000)
a.add_argument("--singles", type=int, default=2_000)
a.add_argument("--jobs", type=int, default=1_000)
args = a.parse_args()
here = pathlib.Path(__file__).parent
run = uuid.uuid4().hex[:8]
numbers = random.Random(int(run, 16))


def features():
    return [round(numbers.uniform(-1, 1), 6) for _ in range(32)]


def warmed(keep):
    """Inputs a second of one run over inputs that nobody has scored."""
    folder = pathlib.Path("schedules")
    folder.mkdir(exist_ok=True)
    name = f"bulk-{keep}-{run}"
    with open(folder / "bulk.jsonl", "w") as file:
        for n in range(args.inputs):
            file.write(json.dumps({"key": f"item:{n}", "features": features()}) + "\n")
    (folder / "bulk.toml").write_text(
        f'name = "{name}"\nenabled = false\ncron = "0 0 1 1 *"\nmodel = "feed-ranker"\nnamespace = "bulk"\nkeep = "{keep}"\n'
        f'[budget]\ninputs = {args.inputs}\n[source]\nkind = "file"\npath = "bulk.jsonl"\n'
    )
    begun = time.perf_counter()
    said = subprocess.run([args.kiln, "warm", name, "--wait", "--json"], env=os.environ | {"KILN_WARM__DIR": str(folder.resolve())}, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - begun
    result = json.loads(said.splitlines()[-1])
    if result["misses"] != args.inputs:
        raise SystemExit(f"not everything was scored: {result}")
    return args.inputs / seconds


def drained(queue, inputs):
    """Inputs a second where jobs of so many inputs, all new, wait in a queue."""
    command = [sys.executable, here / "peers/measure.py", "--jobs", str(3 * args.inputs // inputs), "--inputs", str(inputs), "--distinct", "0", "--queue", queue, "--table", "jobs", "--scores", "scores", "--", args.kiln, "run"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in said.splitlines() if line.startswith('{"jobs_per_s"'))
    return inputs * json.loads(line)["jobs_per_s"]


def one_by_one():
    """Inputs a second where each is posted when the one before is answered."""
    client = Client()
    begun = time.perf_counter()
    for n in range(args.singles):
        job = {"job_id": f"{run}-single-{n}", "model": "feed-ranker", "inputs": [{"features": features()}]}
        client.ask(json.dumps(job).encode())
    return args.singles / (time.perf_counter() - begun)


class Flood(threading.Thread):
    """Keeps `kiln.warm` full of jobs whose inputs are all new."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stop, self.full, self.posted = threading.Event(), threading.Event(), 0
        # Every input's first number is the job's own: `number.join(self.pieces)` is a body of inputs that are all new.
        inputs = ",".join('{"features":[0.#,' + ",".join(map(str, features()[1:])) + "]}" for _ in range(64))
        self.pieces = ('{"model":"feed-ranker","inputs":[' + inputs + "]}").split("#")

    def run(self):
        connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
        channel = connection.channel()
        while not self.stop.is_set():
            if channel.queue_declare("kiln.warm", passive=True).method.message_count > 500:
                self.full.set()
                connection.sleep(0.02)
                continue
            for _ in range(50):
                self.posted += 1
                body = f"{self.posted:07}".join(self.pieces)
                channel.basic_publish("", "kiln.warm", body, pika.BasicProperties(delivery_mode=2, message_id=f"{run}-{id(self)}-{self.posted}"))
        channel.queue_purge("kiln.warm")
        connection.close()


def lone_jobs(what):
    client, seconds, pauses = Client(), [], random.Random(1)
    for job_id, body in bodies(args.jobs, 8, 0, seed=random.randrange(1 << 30)):
        body = json.dumps(json.loads(body) | {"job_id": f"{run}-{what}-{job_id}"}).encode()
        client.pause(pauses.uniform(0.005, 0.020))
        seconds.append(client.ask(body)[0])
    return summary(seconds)


turns = [(drained("kiln.jobs", 8), drained("kiln.warm", 64)) for _ in range(4)][1:]
jobs, warm = (sorted(figures)[1] for figures in zip(*turns))
print(f"waiting inputs a second: jobs of eight {jobs:.0f}, warming jobs of 64 {warm:.0f} ({warm / jobs:.2f} times)")
with Worker(args.kiln):
    by_run = {keep: warmed(keep) for keep in ("scores", "named")}
    single = one_by_one()
    print(f"a run over {args.inputs} missing entries, from asking for it to its end: {by_run['scores']:.0f} inputs a second ({by_run['named']:.0f} with named entries)")
    print(f"one by one: {single:.0f} inputs a second; the run is {by_run['scores'] / single:.1f} times as fast")

    lone_jobs("warm-up")
    print(f"{'lone jobs, kiln.warm':24}{'median ms':>12}{'p95 ms':>10}{'p99 ms':>10}")
    figures = {}
    for turn in range(3):
        for what in ("empty", "full"):
            flood = Flood()
            if what == "full":
                flood.start()
                flood.full.wait()
            before = flood.posted
            figures[what] = lone_jobs(f"{what}-{turn}")
            flood.stop.set()
            if what == "full":
                flood.join()
            print(f"{what:24}" + "{:>12.2f}{:>10.2f}{:>10.2f}".format(*figures[what]) + (f"   {flood.posted - before} warming jobs meanwhile" if what == "full" else ""))
