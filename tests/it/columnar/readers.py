"""Writes tables with pandas, Polars and DuckDB, and reads what `kiln score` made of them with the same: `readers.py write|read FOLDER`."""

import datetime
import decimal
import sys

import duckdb
import pandas
import polars

folder = sys.argv[2]
texts = ["I love this!", None, "Terrible, never again.", "I love this!"]
stamps = [datetime.datetime(2026, 1, day, tzinfo=datetime.timezone.utc) for day in range(1, 5)]
prices = [decimal.Decimal(text) for text in ("1.50", "2.25", "0.10", "99.99")]


def write():
    frame = pandas.DataFrame({"id": range(4), "text": texts, "at": stamps, "price": prices, "part": pandas.Categorical(list("abab"))})
    frame.to_parquet(f"{folder}/pandas.parquet")
    frame.to_feather(f"{folder}/pandas.feather")
    frame_of_polars = polars.DataFrame({"id": range(4), "text": texts, "at": stamps, "price": prices, "part": list("abab"), "tags": [["x"], [], ["y", "z"], None]})
    frame_of_polars.write_parquet(f"{folder}/polars.parquet")
    frame_of_polars.write_ipc(f"{folder}/polars.arrow", compression="zstd")
    frame_of_polars.write_ipc_stream(f"{folder}/polars.arrows")
    duckdb.sql(f"COPY (SELECT * FROM frame_of_polars) TO '{folder}/duckdb.parquet' (COMPRESSION gzip)")


def check(name, rows):
    assert [row["id"] for row in rows] == [0, 2, 3], (name, rows)
    assert [row["label"] for row in rows] == ["positive", "negative", "positive"], (name, rows)
    assert rows[0]["score"] == rows[2]["score"] > 0.5, (name, rows)
    assert abs(sum(rows[0]["scores"].values()) - 1) < 1e-3, (name, rows)
    assert [row["price"] for row in rows] == [prices[0], prices[2], prices[3]], (name, rows)
    assert [row["at"].timestamp() for row in rows] == [stamps[at].timestamp() for at in (0, 2, 3)], (name, rows)
    assert [row["part"] for row in rows] == ["a", "a", "b"], (name, rows)
    assert rows[0]["key"] == "0" and rows[0]["error"] is None, (name, rows)


def read():
    for name in ("pandas", "feather", "polars", "arrow", "arrows", "duckdb"):
        path = f"{folder}/{name}.out.parquet"
        check(name, pandas.read_parquet(path, dtype_backend="pyarrow").replace({pandas.NA: None}).to_dict("records"))
        check(name, polars.read_parquet(path).to_dicts())
        found = duckdb.sql(f"SELECT * FROM '{path}'")
        check(name, [dict(zip(found.columns, row)) for row in found.fetchall()])
        path = f"{folder}/{name}.out.arrow"
        check(name, polars.read_ipc(path).to_dicts())
        check(name, pandas.read_feather(path, dtype_backend="pyarrow").replace({pandas.NA: None}).to_dict("records"))
    kept = polars.read_parquet(f"{folder}/polars.out.parquet")
    assert kept.schema["tags"] == polars.List(polars.String) and kept.schema["id"] == polars.Int64, kept.schema
    assert kept["tags"].to_list() == [["x"], ["y", "z"], None]
    for kind, wanted in (("float32", polars.Float32), ("float16", polars.Float16), ("int8", polars.Int8)):
        found = polars.read_parquet(f"{folder}/{kind}.parquet")
        assert found.schema["embedding"] == polars.List(wanted), found.schema
        values = found["embedding"].to_list()[0]
        scale = found["embedding_scale"][0] if kind == "int8" else 1
        assert len(values) == 64 and abs(values[63] * scale - 63 / 64) < 0.01, values
        if kind == "float32":
            rows = duckdb.sql(f"SELECT embedding[2] FROM '{folder}/{kind}.parquet'").fetchall()
            assert rows == [(0.015625,), (0.015625,)], rows
            assert pandas.read_parquet(f"{folder}/{kind}.parquet")["embedding"][1][1] == 0.015625


{"write": write, "read": read}[sys.argv[1]]()
