"""Lone jobs of a quick model, and hits of an expensive one, on an idle worker and beside a long backlog of the expensive model."""
import argparse, hashlib, json, os, pathlib, random, sys, time, uuid
import numpy, pika
from safetensors.numpy import save_file
sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
from worker import Client, Worker, summary

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--jobs", type=int, default=300)
a.add_argument("--backlog", type=int, default=20_000)
a.add_argument("--inputs", type=int, default=8)
args = a.parse_args()

WIDTH, HIDDEN = 32, [4096, 4096, 4096]
run, pauses, rng = uuid.uuid4().hex[:8], random.Random(1), numpy.random.default_rng(1)


def make_model(folder):
    """An mlp of 34 million weights: a millisecond or two an input."""
    folder.mkdir(parents=True)
    sizes, tensors = [WIDTH, *HIDDEN, 1], {}
    for i, (m, n) in enumerate(zip(sizes, sizes[1:])):
        tensors[f"layers.{i}.weight"] = (rng.standard_normal((n, m)) / m**0.5).astype(numpy.float32)
        tensors[f"layers.{i}.bias"] = numpy.zeros(n, numpy.float32)
    save_file(tensors, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.toml").write_text(f'''architecture = "mlp"

[features]
count = {WIDTH}

[output]
task = "scalar"
activation = "sigmoid"

[mlp]
hidden = {HIDDEN}
activation = "relu"

[weights]
file = "model.safetensors"
sha256 = "{sha256}"
''')


def expensive(name, seed, namespace="backlog"):
    r = random.Random(seed)
    inputs = [{"features": [round(r.gauss(0, 1), 4) for _ in range(WIDTH)]} for _ in range(args.inputs)]
    return json.dumps({"job_id": f"{run}-{name}", "model": "expensive", "namespace": namespace, "inputs": inputs}).encode()


def quick(name):
    return json.dumps({"job_id": f"{run}-{name}", "model": "sentiment", "inputs": [{"text": f"a fine thing, number {name}"}]}).encode()


def lone(client, what, job):
    seconds = []
    for n in range(args.jobs):
        client.pause(pauses.uniform(0.005, 0.020))
        seconds.append(client.ask(job(n))[0])
    print(f"{what:44}" + "{:>12.2f}{:>10.2f}{:>10.2f}".format(*summary(seconds)), f"{1000 * max(seconds):>10.2f}")


make_model(pathlib.Path(os.environ["KILN_MODELS_DIR"]) / "expensive" / "1")
with Worker(args.kiln):
    client = Client()
    for n in range(20):
        client.ask(quick(f"warm-{n}"))
        client.ask(expensive(f"known-{n}", n))
    print(f"{'lone jobs':44}{'median ms':>12}{'p95 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    lone(client, "quick model, idle", lambda n: quick(f"idle-{n}"))
    lone(client, "expensive model, all known, idle", lambda n: expensive(f"idle-{n}", n % 20))
    poster = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = poster.channel()
    for n in range(args.backlog):
        channel.basic_publish("", "kiln.jobs", expensive(f"backlog-{n}", 1_000 + n), pika.BasicProperties(delivery_mode=2))
    poster.close()
    client.pause(2)
    begun = time.perf_counter()
    lone(client, "quick model, beside the backlog", lambda n: quick(f"busy-{n}"))
    lone(client, "expensive model, all known, beside it", lambda n: expensive(f"busy-{n}", n % 20))
    args.jobs = 30
    lone(client, "expensive model, new, of another namespace", lambda n: expensive(f"other-{n}", 10_000_000 + n, "other"))
    waiting = sum(client.depths())
    print(f"{time.perf_counter() - begun:.0f} s later {waiting} jobs of the backlog still wait")
