"""Asks a worker for embeddings by the openai package, which takes it for OpenAI's own server.

    pip install openai
    KILN_URL=http://127.0.0.1:9464 python embeddings.py
"""
import os
from openai import OpenAI

url = os.environ.get("KILN_URL", "http://127.0.0.1:9464")
# A worker whose settings name no keys takes any.
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("KILN_KEY", "none"))
model = os.environ.get("KILN_MODEL", "sentence")

answer = client.embeddings.create(model=model, input=["a fox", "a dog"])
for item in answer.data:
    print(item.index, len(item.embedding), f"{sum(value * value for value in item.embedding):.3f}")
