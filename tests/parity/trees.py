"""Writes the small models and scores of LightGBM and XGBoost that crates/model/src/trees/tests.rs compares with.

    python tests/parity/trees.py crates/model/src/trees/fixtures     # lightgbm 4.7.0, xgboost-cpu 3.2.0
"""

import json
import sys
from pathlib import Path

import lightgbm
import numpy
import xgboost

FOLDER = Path(sys.argv[1])
WIDTH, ROWS = 5, 40
random = numpy.random.default_rng(7)


def rows(count):
    """Numbers with zeros and gaps; the first feature is a category."""
    x = random.normal(size=(count, WIDTH)).astype(numpy.float32)
    x[random.random(x.shape) < 0.1] = 0
    x[:, 0] = random.integers(0, 40, size=count)
    x[random.random(x.shape) < 0.1] = numpy.nan
    return x


def targets(x, classes):
    x = numpy.nan_to_num(x)
    y = 2 * x[:, 1] + numpy.sin(3 * x[:, 2]) + (x[:, 0] % 7) * 0.3
    return numpy.digitize(y, numpy.quantile(y, numpy.linspace(0, 1, classes + 1)[1:-1])) if classes else y


def keep(name, x, y):
    x.astype("<f4").tofile(FOLDER / f"{name}.in")
    numpy.asarray(y).reshape(-1).astype("<f4").tofile(FOLDER / f"{name}.out")


def of_lightgbm(name, categories=True, classes=0, dump=False, **parameters):
    x = rows(400)
    settings = {"verbose": -1, "num_leaves": 6, "min_data_in_leaf": 5, "seed": 1, "min_data_per_group": 5, "cat_smooth": 1, "cat_l2": 1} | parameters
    data = lightgbm.Dataset(x, targets(x, classes), categorical_feature=[0] if categories else [])
    model = lightgbm.train(settings, data, 4)
    text = model.model_to_string()
    # What follows the trees is not read.
    (FOLDER / f"{name}.txt").write_text(text[: text.index("end of trees")] + "end of trees\n")
    if dump:
        short = model.dump_model() | {"feature_infos": {}, "feature_importances": {}}
        (FOLDER / f"{name}.dump.json").write_text(json.dumps(short))
    x = rows(ROWS)
    x[0, 1:], x[1, :], x[2, :], x[3, :], x[4, :] = 0, 1e-36, -0.5, 1e9, -1e30
    keep(name, x, model.predict(x))


def of_xgboost(name, kinds_of_file, classes=0, **parameters):
    kinds = ["c"] + ["q"] * (WIDTH - 1)
    x = rows(400)
    data = xgboost.DMatrix(x, targets(x, classes), feature_types=kinds, enable_categorical=True)
    model = xgboost.train({"max_depth": 3, "seed": 1} | parameters, data, 4)
    for kind in kinds_of_file:
        model.save_model(FOLDER / f"{name}.{kind}")
    x = rows(ROWS)
    x[0, 1:], x[1, 1:], x[2, 1:], x[3, 1:], x[4, 1:] = 0, 1e-36, -0.5, 1e9, -1e30
    keep(name, x, model.predict(xgboost.DMatrix(x, feature_types=kinds, enable_categorical=True)))


of_lightgbm("lightgbm-multiclass", classes=3, dump=True, objective="multiclass", num_class=3)
of_lightgbm("lightgbm-zeros", categories=False, objective="regression", zero_as_missing=True, min_sum_hessian_in_leaf=0)
of_lightgbm(
    "lightgbm-forest", classes=2, objective="binary", boosting="rf", bagging_freq=1, bagging_fraction=0.6, sigmoid=1.7
)
of_xgboost("xgboost-multiclass", ["ubj"], classes=3, objective="multi:softprob", num_class=3)
of_xgboost(
    "xgboost-dart",
    ["json", "ubj"],
    classes=2,
    objective="binary:logistic",
    booster="dart",
    rate_drop=0.4,
    num_parallel_tree=2,
)
