"""Posts a job whose features have names, and waits for its result. pip install pika"""
import json
import os
import uuid

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("KILN_AMQP_URL", "amqp://kiln:kiln@127.0.0.1:5672/%2f")))
channel = connection.channel()
channel.confirm_delivery()  # publishing returns when the broker has the job, and raises where it hasn't
channel.queue_declare("kiln.jobs", passive=True)  # Kiln declares it; this only checks that it is there
replies = channel.queue_declare("", exclusive=True).method.queue

job_id = f"features-{uuid.uuid4()}"  # the same id and body again would give the first result again
job = {
    "job_id": job_id, "model": "ranker", "namespace": "shop", "named": True,
    "inputs": [
        {"key": "item:7", "features": {"price": 3.5, "clicks": 12, "age_days": 1}},
        {"key": "item:8", "features": {"clicks": 2, "price": None}},  # null, and what is left out, is missing
    ],
}
properties = pika.BasicProperties(delivery_mode=2, content_type="application/json", reply_to=replies, correlation_id=job_id)
channel.basic_publish("", "kiln.jobs", json.dumps(job).encode(), properties, mandatory=True)

for _, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=30):
    if body is None:
        raise SystemExit("no reply within 30 seconds: is a worker running?")
    if properties.correlation_id == job_id:
        break
reply = json.loads(body)
if reply["status"] == "rejected":
    raise SystemExit(f"rejected: {reply['error']['field']}: {reply['error']['message']}")
for result in reply["results"]:
    print(result["key"], result["score"], "cached" if result["cached"] else "scored")
connection.close()
