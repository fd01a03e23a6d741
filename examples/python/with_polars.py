"""Scores a Polars frame: Arrow into `kiln score -`, and Arrow back."""

import io
import subprocess

import polars

reviews = polars.DataFrame({"id": [1, 2], "stars": [5, 1], "text": ["I love this!", "Terrible, never again."]})
arrow = io.BytesIO()
reviews.write_ipc_stream(arrow)
command = "kiln score - --model sentiment --key-column id --keep-columns --input-format arrow --format arrow"
scored = subprocess.run(command.split(), input=arrow.getvalue(), stdout=subprocess.PIPE, check=True).stdout
print(polars.read_ipc_stream(io.BytesIO(scored)).select("key", "stars", "label").rows())
