"""What the cache is worth to single requests: 1,000 over 50 texts, one after the other, with the cache and without."""
import argparse, json, os, pathlib, random, uuid
import redis
from worker import Client, Worker, summary

TEXTS = pathlib.Path(__file__).parent.parent / "examples/data/sentiment_heldout.tsv"

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--requests", type=int, default=1_000)
a.add_argument("--texts", type=int, default=50)
a.add_argument("--model", default="sentiment")
args = a.parse_args()

texts = [line.split("\t", 1)[1] for line in TEXTS.read_text().splitlines()[: args.texts]]
medians = {}
print(f"{'cache':8}{'median ms':>12}{'p95 ms':>10}{'hit ratio':>12}")
for cache in ("off", "on"):
    redis.from_url(os.environ["REDIS_URL"]).flushdb()
    run, choose = uuid.uuid4().hex[:8], random.Random(3)
    seconds, hits = [], 0
    with Worker(args.kiln, KILN_CACHE__ENABLED=str(cache == "on").lower()):
        client = Client()
        for number in range(args.requests):
            job = {"job_id": f"{run}-{number}", "model": args.model, "inputs": [{"text": choose.choice(texts)}]}
            took, reply = client.ask(json.dumps(job).encode())
            seconds.append(took)
            hits += reply["hits"]
    medians[cache], p95, _ = summary(seconds)
    print(f"{cache:8}{medians[cache]:>12.2f}{p95:>10.2f}{hits / args.requests:>12.1%}")
print(f"the cache makes the median {medians['off'] / medians['on']:.2f} times as fast")
