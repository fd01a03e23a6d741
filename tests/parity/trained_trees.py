"""Trains small models of every objective and kind of boosting with LightGBM and XGBoost, and writes them with rows and scores:
crates/model/tests/trained.rs runs it and compares.

    python tests/parity/trained_trees.py FOLDER ROWS     # lightgbm 4.7.0, xgboost-cpu 3.2.0
"""

import json
import os
import sys
from pathlib import Path

# Threads that wait for each other would take longer than these small models do.
os.environ["OMP_NUM_THREADS"] = "1"

import lightgbm
import numpy
import xgboost

FOLDER, ROWS = Path(sys.argv[1]), int(sys.argv[2])
WIDTH, SAMPLES, ROUNDS = 8, 1500, 20
random = numpy.random.default_rng(7)


def rows(count, categories, gaps=0.1):
    x = random.normal(size=(count, WIDTH)).astype(numpy.float32)
    x[random.random(x.shape) < 0.1] = 0
    x[:, :categories] = random.integers(0, 40, size=(count, categories))
    x[random.random(x.shape) < gaps] = numpy.nan
    return x


def signal(x):
    x = numpy.nan_to_num(x)
    return x[:, 3] * 2 + numpy.sin(x[:, 4] * 3) + (x[:, 0] % 7) * 0.3 + x[:, 1] * 0.01


def classes(count):
    return lambda s: numpy.digitize(s, numpy.quantile(s, numpy.linspace(0, 1, count + 1)[1:-1]))


def above(s):
    return (s > 0.3).astype(int)


def positive(s):
    return numpy.exp(numpy.clip(s, -2, 2))


def share(s):
    return 1 / (1 + numpy.exp(-s))


def grade(s):
    return numpy.clip(s + 2, 0, 4).astype(int)


def keep(name, x, y):
    x.astype("<f4").tofile(FOLDER / f"{name}.in")
    numpy.asarray(y).reshape(-1).astype("<f4").tofile(FOLDER / f"{name}.out")


def edges(x):
    """Rows at which libraries differ: zeros, numbers that are nearly zero, huge ones."""
    for i, value in enumerate([0, 1e-36, -0.5, 1e9, -1e30, 100]):
        x[i] = value
    return x


def of_lightgbm(name, target=None, categories=0, gaps=0.1, rounds=ROUNDS, dump=False, **parameters):
    x = rows(SAMPLES, categories, gaps)
    y = (target or (lambda s: s))(signal(x))
    group = [20] * (SAMPLES // 20) if "rank" in parameters.get("objective", "") else None
    settings = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1} | parameters
    data = lightgbm.Dataset(x, y, categorical_feature=list(range(categories)) or "auto", group=group)
    model = lightgbm.train(settings, data, rounds)
    model.save_model(FOLDER / f"{name}.txt")
    if dump:
        (FOLDER / f"{name}.json").write_text(json.dumps(model.dump_model()))
    x = edges(rows(ROWS, categories))
    keep(name, x, model.predict(x))


def of_xgboost(name, target=None, categories=0, rounds=ROUNDS, **parameters):
    x = rows(SAMPLES, categories)
    kinds = ["c"] * categories + ["q"] * (WIDTH - categories) if categories else None
    data = xgboost.DMatrix(x, (target or (lambda s: s))(signal(x)), feature_types=kinds, enable_categorical=bool(kinds))
    if "rank" in parameters["objective"]:
        data.set_group([20] * (SAMPLES // 20))
    model = xgboost.train({"nthread": 1, "seed": 1} | parameters, data, rounds)
    model.save_model(FOLDER / f"{name}.json")
    model.save_model(FOLDER / f"{name}.ubj")
    x = rows(ROWS, categories)
    x = x if categories else edges(x)
    keep(name, x, model.predict(xgboost.DMatrix(x, feature_types=kinds, enable_categorical=bool(kinds))))


def lightgbm_models():
    of_lightgbm("regression", objective="regression", num_leaves=31, dump=True)
    of_lightgbm("zero-as-missing", objective="regression", zero_as_missing=True)
    of_lightgbm("no-missing", objective="regression", use_missing=False)
    of_lightgbm("whole", objective="regression", gaps=0)
    of_lightgbm("categories", categories=2, objective="regression", max_cat_to_onehot=4, min_data_per_group=5, cat_smooth=1, dump=True)
    for objective in ["regression_l1", "huber", "fair", "quantile", "mape"]:
        of_lightgbm(objective, objective=objective)
    of_lightgbm("square-root", objective="regression", reg_sqrt=True)
    for objective in ["poisson", "gamma", "tweedie"]:
        of_lightgbm(objective, positive, objective=objective)
    of_lightgbm("binary", above, objective="binary", sigmoid=1.7)
    of_lightgbm("cross-entropy", share, objective="cross_entropy")
    of_lightgbm("cross-entropy-lambda", share, objective="cross_entropy_lambda")
    of_lightgbm("multiclass", classes(4), objective="multiclass", num_class=4)
    of_lightgbm("one-of-all", classes(3), objective="multiclassova", num_class=3)
    of_lightgbm("lambdarank", grade, objective="lambdarank")
    of_lightgbm("xendcg", grade, objective="rank_xendcg")
    of_lightgbm("dart", objective="regression", boosting="dart")
    of_lightgbm("goss", objective="regression", data_sample_strategy="goss")
    of_lightgbm("forest", above, objective="binary", boosting="rf", bagging_freq=1, bagging_fraction=0.6, feature_fraction=0.7)
    of_lightgbm("many-leaves", objective="regression", num_leaves=400, min_data_in_leaf=1, rounds=5)


def xgboost_models():
    squared = "reg:squarederror"
    of_xgboost("x-regression", objective=squared)
    of_xgboost("x-exact", objective=squared, tree_method="exact", max_depth=8)
    of_xgboost("x-pruned", objective=squared, tree_method="exact", gamma=2.0)
    of_xgboost("x-categories", categories=2, objective=squared, max_cat_to_onehot=4)
    of_xgboost("x-one-hot", categories=2, objective=squared, max_cat_to_onehot=100)
    of_xgboost("x-absolute", objective="reg:absoluteerror")
    of_xgboost("x-huber", objective="reg:pseudohubererror")
    of_xgboost("x-share", share, objective="reg:logistic")
    for objective in ["reg:gamma", "reg:tweedie", "reg:squaredlogerror", "count:poisson"]:
        of_xgboost("x-" + objective.replace(":", "-"), positive, objective=objective)
    for objective in ["binary:logistic", "binary:logitraw", "binary:hinge"]:
        of_xgboost("x-" + objective.replace(":", "-"), above, objective=objective)
    of_xgboost("x-multiclass", classes(4), objective="multi:softprob", num_class=4)
    for objective in ["rank:ndcg", "rank:pairwise", "rank:map"]:
        of_xgboost("x-" + objective.replace(":", "-"), above if objective == "rank:map" else grade, objective=objective)
    of_xgboost("x-dart", objective=squared, booster="dart", rate_drop=0.3)
    of_xgboost("x-forest", above, objective="binary:logistic", num_parallel_tree=5, subsample=0.6, colsample_bynode=0.6, rounds=4)


lightgbm_models()
xgboost_models()
