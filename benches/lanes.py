"""Mixed load: lone jobs of a quick model, and hits of an expensive one, on an idle worker and beside a long backlog of the expensive model;
another namespace's jobs beside that backlog; and many requests over HTTP at once, beside an earlier release where one is given."""
import argparse, asyncio, json, math, os, pathlib, random, statistics, time, urllib.request, uuid
import pika, psycopg, uvloop
from expensive import WIDTH, make_model
from worker import LANES, Client, Worker, summary

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--before", help="the binary of an earlier release, for requests over HTTP")
a.add_argument("--hidden", type=int, default=4_096, help="width of the expensive model's layers")
a.add_argument("--jobs", type=int, default=500)
a.add_argument("--backlog-seconds", type=float, default=3_600, help="model time of the backlog")
a.add_argument("--inputs", type=int, default=64, help="inputs of a job of the backlog: 10,000 jobs at least are posted")
a.add_argument("--clients", type=int, default=64)
a.add_argument("--requests", type=int, default=20_000)
args = a.parse_args()

TURN_MS, KNOWN = 100, 8
run, pauses = uuid.uuid4().hex[:8], random.Random(1)
address = os.environ["KILN_HTTP_ADDR"]


def expensive(name, seed, namespace="backlog", count=1):
    r = random.Random(seed)
    inputs = [{"features": [round(r.gauss(0, 1), 4) for _ in range(WIDTH)]} for _ in range(count)]
    return json.dumps({"job_id": f"{run}-expensive-{name}", "model": "expensive", "namespace": namespace, "inputs": inputs}).encode()


def quick(name):
    return json.dumps({"job_id": f"{run}-{name}", "model": "sentiment", "inputs": [{"text": f"a fine thing, number {name}"}]}).encode()


def lone(client, what, job, jobs):
    """Posts one job after the other; gives median, 95th and 99th percentile in milliseconds."""
    seconds = []
    for n in range(jobs):
        client.pause(pauses.uniform(0.005, 0.020))
        seconds.append(client.ask(job(n))[0])
    figures = summary(seconds)
    print(f"{what:46}" + "{:>12.2f}{:>10.2f}{:>10.2f}".format(*figures), f"{1000 * max(seconds):>10.2f}", flush=True)
    return figures


def lane():
    """The expensive lane as the worker shows it."""
    shown = json.load(urllib.request.urlopen(f"http://{address}/v1/lanes", timeout=10))
    return next(lane for lane in shown["lanes"] if lane["name"] == "expensive")


def post_backlog(seconds_per_input):
    jobs = max(10_000, math.ceil(args.backlog_seconds / seconds_per_input / args.inputs))
    count = max(1, round(args.backlog_seconds / seconds_per_input / jobs))
    poster = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = poster.channel()
    for n in range(jobs):
        body = expensive(f"backlog-{n}", 1_000 + n, count=count)
        channel.basic_publish("", "kiln.jobs", body, pika.BasicProperties(delivery_mode=2))
    poster.close()
    return jobs, jobs * count * seconds_per_input


class Requests(asyncio.Protocol):
    """One connection that asks the same thing again and again."""

    def __init__(self, request, left, seconds, done):
        self.request, self.left, self.seconds, self.done, self.data = request, left, seconds, done, b""

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        if next(self.left, None) is None:
            self.transport.close()
            self.done.set_result(None)
            return
        self.data, self.at = b"", time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data):
        self.data += data
        head, _, body = self.data.partition(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
        if length is None or len(body) < int(length.split(b":")[1]):
            return
        if not self.data.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(SystemExit(f"not answered: {self.data[:200]}"))
            self.transport.close()
            return
        self.seconds.append(time.perf_counter() - self.at)
        self.ask()

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_exception(SystemExit("a connection was cut"))


async def crowd(clients, requests):
    """So many clients at once that ask for one cached input each."""
    host, port = address.rsplit(":", 1)
    loop, seconds, ends = asyncio.get_running_loop(), [], []
    left = iter(range(requests))
    for n in range(clients):
        body = json.dumps({"model": "sentiment", "text": f"a fine thing, client {n}"}).encode()
        head = f"POST /v1/score HTTP/1.1\r\nhost: {address}\r\ncontent-length: {len(body)}\r\n\r\n"
        done = loop.create_future()
        ends.append(done)
        await loop.create_connection(lambda: Requests(head.encode() + body, left, seconds, done), host, int(port))
    begun = time.perf_counter()
    await asyncio.gather(*ends)
    return len(seconds) / (time.perf_counter() - begun), summary(seconds)


def own_servers(database):
    """A database of its own: an earlier release doesn't know the tables of a later one."""
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
    return {"DATABASE_URL": f"{url.rsplit('/', 1)[0]}/{database}", "REDIS_URL": f"{os.environ['REDIS_URL'].rsplit('/', 1)[0]}/1"}


def over_http():
    releases = [("this", args.kiln, {})]
    if args.before:
        releases.append(("before", args.before, own_servers("before")))
    figures = {name: [] for name, *_ in releases}
    print(f"{args.clients} requests over HTTP at once, of one cached input each")
    print(f"{'release':10}{'requests/s':>12}{'median ms':>12}{'p95 ms':>10}{'p99 ms':>10}")
    # In turns, so that a machine that slows down slows both.
    for _ in range(3 if args.before else 1):
        for name, kiln, settings in releases:
            with Worker(kiln, **settings):
                uvloop.run(crowd(args.clients, 4 * args.clients))
                rate, times = uvloop.run(crowd(args.clients, args.requests))
            figures[name].append((rate, times[2]))
            print(f"{name:10}{rate:>12,.0f}" + "{:>12.2f}{:>10.2f}{:>10.2f}".format(*times), flush=True)
    if args.before:
        rate, p99 = [statistics.median(now) / statistics.median(then) for now, then in zip(zip(*figures["this"]), zip(*figures["before"]))]
        print(f"medians, this to before: {rate:.2f} times the rate, {p99:.2f} times the p99")


def beside_a_backlog():
    client = Client()
    for n in range(20):
        client.ask(quick(f"warm-{n}"))
        client.ask(expensive(f"known-{n}", n, count=KNOWN))
        # What an input costs in a batch such as those of the backlog.
        client.ask(expensive(f"learn-{n}", 100 + n, count=args.inputs))
    known = lane()
    if not known["expensive"]:
        raise SystemExit("the model is too quick to have queues of its own here: see --hidden")
    seconds_per_input = known["seconds_per_input"]
    print(f"\nan input of the expensive model takes {1000 * seconds_per_input:.2f} ms")
    print(f"{'lone jobs':46}{'median ms':>12}{'p95 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    idle = [
        lone(client, "quick model, idle", lambda n: quick(f"idle-{n}"), args.jobs),
        lone(client, "expensive model, all known, idle", lambda n: expensive(f"idle-{n}", n % 20, count=KNOWN), args.jobs),
    ]
    jobs, seconds = post_backlog(seconds_per_input)
    posted = time.perf_counter()
    while any(client.depths(("kiln.jobs",))):
        client.pause(0.2)
    print(f"{time.perf_counter() - posted:.1f} s after the last of the backlog was posted, none of it waited in kiln.jobs any more")
    client.pause(2)
    begun, before = time.perf_counter(), lane()
    busy = [
        lone(client, "quick model, beside the backlog", lambda n: quick(f"busy-{n}"), args.jobs),
        lone(client, "expensive model, all known, beside it", lambda n: expensive(f"busy-{n}", n % 20, count=KNOWN), args.jobs),
    ]
    others = lone(client, "expensive model, new, of another namespace", lambda n: expensive(f"other-{n}", 10_000_000 + n, "other"), 30)
    for what, now, then in zip(("quick model", "expensive model, all known"), busy, idle):
        print(f"{what}: the p99 is {now[2] / then[2]:.2f} times that of the idle system")
    print(f"another namespace: the median wait is {others[0] / TURN_MS:.2f} turns of one batch ({TURN_MS} ms)")
    waiting = sum(client.depths())
    print(f"the backlog: {jobs} jobs, {seconds:.0f} s of model time; {before['model_seconds_in_hand']:.1f} s of it were in hand")
    print(f"{time.perf_counter() - begun:.0f} s later {waiting} jobs of it still wait in queues")


make_model(pathlib.Path(os.environ["KILN_MODELS_DIR"]) / "expensive" / "1", args.hidden)
over_http()
with Worker(args.kiln, KILN_LANE__TURN_MS=str(TURN_MS)):
    beside_a_backlog()
# What follows is to find the queues empty.
channel = Client().channel
for queue in ("kiln.jobs", *LANES):
    channel.queue_purge(queue)


