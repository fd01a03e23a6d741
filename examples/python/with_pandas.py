"""Scores a pandas frame: Arrow into `kiln score -`, and Arrow back."""

import subprocess

import pandas
import pyarrow

reviews = pyarrow.Table.from_pandas(pandas.DataFrame({"id": [1, 2], "stars": [5, 1], "text": ["I love this!", "Terrible, never again."]}))
arrow = pyarrow.BufferOutputStream()
with pyarrow.ipc.new_stream(arrow, reviews.schema) as stream:
    stream.write_table(reviews)
command = "kiln score - --model sentiment --key-column id --keep-columns --input-format arrow --format arrow"
scored = subprocess.run(command.split(), input=arrow.getvalue(), stdout=subprocess.PIPE, check=True).stdout
print(pyarrow.ipc.open_stream(scored).read_pandas()[["key", "stars", "label"]].values.tolist())
