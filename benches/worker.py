"""A Kiln worker and a client that posts jobs to it one by one: shared by the measurements of single jobs and of memory."""
import json, os, signal, statistics, subprocess, time, urllib.error, urllib.request
import pika

# The queues of the expensive model's lane.
LANES = ("kiln.lane.expensive", *(f"kiln.lane.expensive.{n}" for n in range(1, 4)))

class Worker:
    """`kiln run` until the end of a `with` block, which starts when the worker is ready."""

    def __init__(self, kiln, **settings):
        self.command, self.settings = [kiln, "run"], settings

    def __enter__(self):
        self.process = subprocess.Popen(self.command, env=os.environ | self.settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise SystemExit("the worker didn't become ready")
            time.sleep(0.05)
        return self

    def ready(self):
        try:
            return urllib.request.urlopen(f"http://{os.environ['KILN_HTTP_ADDR']}/readyz", timeout=1).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def peak_mib(self):
        """The most memory that the worker had resident so far."""
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Client:
    """Posts a job and waits for its reply; `seconds` runs from the one to the other."""

    def __init__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
        self.channel = self.connection.channel()
        self.replies = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_consume(self.replies, self.receive, auto_ack=True)

    def receive(self, _channel, _method, _properties, body):
        self.at, self.reply = time.perf_counter(), json.loads(body)

    def ask(self, body):
        self.reply = None
        posted = time.perf_counter()
        self.channel.basic_publish("", "kiln.jobs", body, pika.BasicProperties(delivery_mode=2, reply_to=self.replies))
        while self.reply is None:
            self.connection.process_data_events(time_limit=30)
            if time.perf_counter() - posted > 60:
                raise SystemExit("no reply within a minute")
        if self.reply["status"] != "ok":
            raise SystemExit(f"rejected: {self.reply['error']}")
        return self.at - posted, self.reply

    def depths(self, queues=("kiln.jobs", *LANES)):
        """Messages ready in each of these queues."""
        return [self.channel.queue_declare(queue, passive=True).method.message_count for queue in queues]

    def pause(self, seconds):
        """Waits while the connection stays served."""
        self.connection.sleep(seconds)


def summary(seconds):
    """Median, 95th and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [1000 * cuts[i] for i in (49, 94, 98)]
