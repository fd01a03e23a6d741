"""Reads a named entry: one GET, and no client of Kiln's. pip install redis"""
import json
import os

import redis

entry = redis.from_url(os.environ.get("KILN_REDIS_URL", "redis://127.0.0.1:6379/0")).get("kiln:k:reviews:review:42")
print(json.loads(entry)["label"] if entry else "not there: post a job, warm it, or show a default")
