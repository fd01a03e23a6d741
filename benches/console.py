"""What open pages cost a busy worker: the rate of 64 clients at once (wrk) that ask over HTTP for one known input each, with no page open, with one and
with twenty, in turn. A page here asks what src/http/page/ asks, as often, and reads the stream of figures; it draws nothing."""
import argparse, asyncio, itertools, multiprocessing, os, pathlib, re, statistics, subprocess, tempfile, time
from worker import Worker

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--clients", type=int, default=64)
a.add_argument("--seconds", type=int, default=10)
a.add_argument("--rounds", type=int, default=5)
a.add_argument("--pages", default="0,1,20", help="numbers of open pages, in turn; the first is what the others are compared with")
args = a.parse_args()
address = os.environ["KILN_HTTP_ADDR"]
host, port = address.rsplit(":", 1)

SCRIPT = """
local count = 0
request = function()
  count = count %% %d + 1
  return wrk.format("POST", "/v1/score", nil, '{"model": "sentiment", "text": "a fine thing, client ' .. count .. '"}')
end
"""
OFTEN = ["/health", "/v1/lanes", "/v1/rejections", "/v1/log/actions?limit=12", "/v1/log/recent"]
SELDOM = ["/v1/fleet", "/v1/models", "/v1/schedules", "/v1/cache/health", "/v1/cache/stats/top-patterns?limit=10", "/v1/cache/stats/low-performers?min_inputs=20"]
RARELY = ["/v1/timings?hours=1"]


async def get(path):
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n")
    while await reader.read(65536):
        pass
    writer.close()
    if b" 200 " not in head:
        raise SystemExit(f"{path}: {head.decode()}")


async def watch():
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/live HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    while await reader.read(65536):
        pass


async def page(number):
    await asyncio.sleep(number * 0.1)
    stream = asyncio.create_task(watch())
    for turn in itertools.count():
        paths = OFTEN + (SELDOM if turn % 3 == 0 else []) + (RARELY if turn % 15 == 0 else [])
        await asyncio.gather(*(get(path) for path in paths))
        await asyncio.sleep(2)
    await stream


def pages(count):
    async def all_of_them():
        await asyncio.gather(*(page(number) for number in range(count)))

    asyncio.run(all_of_them())


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


numbers = [int(number) for number in args.pages.split(",")]
rates = {number: [] for number in numbers}
costs = {number: [] for number in numbers}
script = pathlib.Path(tempfile.mkdtemp()) / "ask.lua"
script.write_text(SCRIPT % args.clients)
wrk = ["wrk", "--threads", "1", "--connections", str(args.clients), "--script", str(script), f"http://{address}"]
with Worker(args.kiln) as worker:
    subprocess.run([*wrk, "--duration", "5s"], check=True, capture_output=True)
    for round in range(args.rounds):
        # The other way round every second time, so that a machine that slows down slows all.
        for number in numbers if round % 2 == 0 else reversed(numbers):
            opened = multiprocessing.Process(target=pages, args=(number,), daemon=True)
            opened.start()
            subprocess.run([*wrk, "--duration", "2s"], check=True, capture_output=True)
            before = cpu(worker.process.pid)
            said = subprocess.run([*wrk, "--duration", f"{args.seconds}s"], check=True, capture_output=True, text=True).stdout
            used = cpu(worker.process.pid) - before
            if number and not opened.is_alive():
                raise SystemExit("the pages ended early")
            opened.terminate()
            opened.join()
            if "Non-2xx" in said:
                raise SystemExit(said)
            rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
            rates[number].append(rate)
            costs[number].append(1e6 * used / (rate * args.seconds))
    # Without clients, what the pages cost is told apart from the noise of what the clients cost.
    alone = {}
    for number in numbers:
        opened = multiprocessing.Process(target=pages, args=(number,), daemon=True)
        opened.start()
        time.sleep(3)
        before = cpu(worker.process.pid)
        time.sleep(3 * args.seconds)
        alone[number] = 1e3 * (cpu(worker.process.pid) - before) / (3 * args.seconds)
        opened.terminate()
        opened.join()
first = numbers[0]
print(f"{'pages':>6}{'requests/s':>12}{'ratio':>8}{'CPU µs each':>14}{'ratio':>8}{'CPU ms/s without clients':>28}")
for number in numbers:
    rate, cost = statistics.median(rates[number]), statistics.median(costs[number])
    ratio, dearer = rate / statistics.median(rates[first]), cost / statistics.median(costs[first])
    print(f"{number:>6}{rate:>12,.0f}{ratio:>8.3f}{cost:>14.1f}{dearer:>8.3f}{alone[number]:>28.1f}")
