"""Trains a ranker again, with LightGBM, on what it scored and what became of that, and imports it as a new version.

    python retrain.py --model ranker --version 20261127

Needs lightgbm and psycopg, `kiln` on the path, and KILN_DATABASE_URL (or KILN_DATABASE_URL_FILE) and KILN_MODELS_DIR as workers have
them. What it reads is in data.sql beside it. It switches nothing: `kiln models activate` does.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import lightgbm
import numpy
import psycopg

# Fewer labels say nothing.
MIN_ROWS = 200
# The newest of them judge the model that the others made.
HELD_OUT = 0.2
PARAMETERS = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 20, "seed": 1, "deterministic": True, "verbose": -1}
ROUNDS = 100


def setting(name):
    """A setting of Kiln's, from the environment or from a file that it names."""
    if file := os.environ.get(f"{name}_FILE"):
        return pathlib.Path(file).read_text().strip()
    return os.environ[name]


def kiln(*arguments):
    done = subprocess.run(["kiln", *arguments], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def serving(connection, model):
    """The chosen version. Where none is chosen, workers would serve the new one at once."""
    found = connection.execute("SELECT version FROM active_models WHERE name = $1", [model]).fetchone()
    if found is None:
        sys.exit(f"no version of {model} is chosen: `kiln models activate {model}@VERSION` first, or the new one would serve as soon as it is there")
    return found[0]


def read(connection, model, version, width, days):
    """Labels' times, labels, features, and the serving version's scores (NaN where it has none), oldest first."""
    until = datetime.datetime.now(datetime.timezone.utc)
    query = (pathlib.Path(__file__).parent / "data.sql").read_text()
    parameters = [model, until - datetime.timedelta(days=days), until, version]
    rows = connection.execute(query, parameters, binary=True).fetchall()
    rows = [row for row in rows if len(row[2]) == 4 * width]
    if len(rows) < MIN_ROWS:
        sys.exit(f"{len(rows)} labels of the last {days} days have an input of {width} features: at least {MIN_ROWS} are needed")
    at, labels, features, scores = zip(*rows)
    features = numpy.frombuffer(b"".join(features), dtype="<f4").reshape(-1, width)
    return at, numpy.array(labels, dtype=float), features, numpy.array(scores, dtype=float)


def area(labels, scores):
    """Area under the curve: how often a positive scores above a negative; a tie counts half."""
    values, inverse, counts = numpy.unique(scores, return_inverse=True, return_counts=True)
    ranks = (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = labels.sum()
    negatives = len(labels) - positives
    return (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def evaluate(labels, scores, before):
    """Figures of the labels that were held out, for the new scores and for those that were served."""
    likely = numpy.clip(scores, 1e-7, 1 - 1e-7)
    figures = {
        "held_out_rows": len(labels),
        "auc": area(labels, scores),
        "log_loss": -numpy.mean(numpy.where(labels == 1, numpy.log(likely), numpy.log(1 - likely))),
    }
    if not numpy.isnan(before).any():
        figures["auc_before"] = area(labels, before)
    return {name: float(figure) for name, figure in figures.items()}


def training(at, rows, training_seconds, evaluation_seconds, figures):
    """What `kiln models import --training` takes."""
    lines = [f'from = "{at[0].isoformat()}"', f'to = "{at[-1].isoformat()}"', f"rows = {rows}"]
    lines += [f"training_seconds = {training_seconds:.3f}", f"evaluation_seconds = {evaluation_seconds:.3f}", "[metrics]"]
    return "\n".join(lines + [f"{name} = {figure}" for name, figure in figures.items()]) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Trains a ranker again on what it scored and what became of that.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", required=True, help="of the new one")
    parser.add_argument("--days", type=int, default=30, help="how old labels may be")
    arguments = parser.parse_args()

    # Placeholders are the server's own, as in data.sql.
    with psycopg.connect(setting("KILN_DATABASE_URL"), cursor_factory=psycopg.RawCursor) as connection:
        version = serving(connection, arguments.model)
        before = json.loads(kiln("models", "inspect", f"{arguments.model}@{version}", "--json"))["model"]
        if before["input"]["kind"] != "features" or before["task"]["kind"] != "scalar":
            sys.exit(f"{arguments.model}@{version} doesn't give one number for features")
        at, labels, features, scores = read(connection, arguments.model, version, before["input"]["count"], arguments.days)

    held_out = int(len(labels) * (1 - HELD_OUT))
    for part in labels[:held_out], labels[held_out:]:
        if set(part) != {0.0, 1.0}:
            sys.exit("labels are 0 or 1, and there are both among the older ones and among the newest")
    # Places have names where the serving version's have, so that inputs by name go on working.
    names = before.get("feature_names") or "auto"
    begun = time.monotonic()
    data = lightgbm.Dataset(features[:held_out], label=labels[:held_out], feature_name=names)
    booster = lightgbm.train(PARAMETERS, data, num_boost_round=ROUNDS)
    if names not in ("auto", booster.feature_name()):
        sys.exit("LightGBM's files have no spaces in features' names: inputs by name would no longer be taken")
    trained = time.monotonic()
    figures = evaluate(labels[held_out:], booster.predict(features[held_out:]), scores[held_out:])
    evaluated = time.monotonic()

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        booster.save_model(folder / "model.txt")
        (folder / "training.toml").write_text(training(at, len(labels), trained - begun, evaluated - trained, figures))
        more = ["--ttl-seconds", str(before["ttl_seconds"])] if before["ttl_seconds"] else []
        said = kiln("models", "import", str(folder / "model.txt"), "--name", arguments.model, "--version", arguments.version,
                    "--training", str(folder / "training.toml"), *more)
    sys.stdout.write(said.decode())
    print(f"{len(labels)} labels since {at[0]:%Y-%m-%d}: " + ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items()))


main()
