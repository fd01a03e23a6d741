"""Writes the small ONNX files and ONNX Runtime's answers that crates/model/src/onnx/tests.rs compares with.

    python tests/parity/onnx_files.py crates/model/src/onnx/fixtures     # scikit-learn 1.9.1, skl2onnx 1.20.0, onnxruntime 1.32.0, tokenizers 0.23.3
"""

import json
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tokenizers import Tokenizer, models, pre_tokenizers, processors

FOLDER = Path(sys.argv[1])
WIDTH, ROWS, OPSET = 5, 40, 18
random = numpy.random.default_rng(11)


def rows(count=ROWS, gaps=0.0):
    x = random.normal(size=(count, WIDTH)).astype(numpy.float32)
    x[random.random(x.shape) < gaps] = numpy.nan
    return x


def classes(x, labels):
    y = numpy.nan_to_num(x) @ [2.0, -1.0, 0.5, 0.0, 1.0]
    return numpy.array(labels)[numpy.digitize(y, numpy.quantile(y, numpy.linspace(0, 1, len(labels) + 1)[1:-1]))]


def keep(name, model, x, inputs, output):
    """The file, the rows, and what ONNX Runtime gives for them."""
    text = model.SerializeToString()
    (FOLDER / f"{name}.onnx").write_bytes(text)
    given = onnxruntime.InferenceSession(text).run([output], inputs)[0]
    if isinstance(given, list):
        given = [list(row.values()) for row in given]
    x.astype("<f4").tofile(FOLDER / f"{name}.in")
    numpy.asarray(given).reshape(-1).astype("<f4").tofile(FOLDER / f"{name}.out")


def of_pipeline(name, pipeline, y, gaps=0.0, output="probabilities", options=None):
    x = rows(400, gaps)
    pipeline.fit(x, y(x))
    model = to_onnx(pipeline, initial_types=[("x", FloatTensorType([None, WIDTH]))], target_opset=OPSET, options=options)
    x = rows(ROWS, gaps)
    keep(name, model, x, {"x": x}, output)


def of_columns():
    """Two inputs: a column of whole numbers, and four of floats."""
    x = rows(400)
    x[:, 0] = random.integers(0, 6, size=len(x))
    encode = ColumnTransformer([("kind", OneHotEncoder(handle_unknown="ignore"), [0]), ("rest", StandardScaler(), [1, 2, 3, 4])])
    frame = make_pipeline(encode, LinearRegression())
    frame.fit(x, x[:, 0] % 4 + x[:, 1])
    names = ["kind", "a", "b", "c", "d"]
    kinds = [Int64TensorType([None, 1])] + [FloatTensorType([None, 1])] * 4
    model = to_onnx(frame, initial_types=list(zip(names, kinds)), target_opset=OPSET)
    x = rows()
    x[:, 0] = random.integers(0, 8, size=len(x))
    inputs = {name: x[:, [i]].astype(numpy.int64 if i == 0 else numpy.float32) for i, name in enumerate(names)}
    keep("columns", model, x, inputs, model.graph.output[0].name)


def words():
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "film", "a", "the", "very", ".", "not", "and", "long", "short", "music"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer, len(vocabulary)


def encoder(vocabulary, hidden=16, heads=2, layers=2, positions=64, labels=3):
    """A transformer as exporters write one: open axes, shapes worked out in the graph, GELU by the error function."""
    nodes, tensors = [], []
    count = iter(range(10_000))

    def tensor(value):
        name = f"w{next(count)}"
        tensors.append(numpy_helper.from_array(numpy.asarray(value), name))
        return name

    def weights(*shape):
        return tensor((random.normal(size=shape) * 0.4).astype(numpy.float32))

    def node(operator, *inputs, **attributes):
        name = f"n{next(count)}"
        nodes.append(helper.make_node(operator, list(inputs), [name], name=f"/{operator}_{name}", **attributes))
        return name

    def linear(x, given, wanted):
        return node("Add", node("MatMul", x, weights(given, wanted)), weights(wanted))

    def norm(x):
        return node("LayerNormalization", x, weights(hidden), weights(hidden), axis=-1, epsilon=1e-5)

    length = node("Gather", node("Shape", "input_ids"), tensor(numpy.int64(1)), axis=0)
    places = node("Range", tensor(numpy.int64(0)), length, tensor(numpy.int64(1)))
    x = node("Add", node("Gather", weights(vocabulary, hidden), "input_ids"), node("Gather", weights(2, hidden), "token_type_ids"))
    x = norm(node("Add", x, node("Gather", weights(positions, hidden), places)))
    mask = node("Cast", node("Unsqueeze", "attention_mask", tensor(numpy.array([1, 2]))), to=TensorProto.FLOAT)
    mask = node("Mul", node("Sub", tensor(numpy.float32(1)), mask), tensor(numpy.float32(-1e9)))
    apart = tensor(numpy.array([0, -1, heads, hidden // heads]))
    for _ in range(layers):
        query, key, value = (node("Reshape", linear(x, hidden, hidden), apart) for _ in range(3))
        query, value = (node("Transpose", y, perm=[0, 2, 1, 3]) for y in (query, value))
        scores = node("MatMul", query, node("Transpose", key, perm=[0, 2, 3, 1]))
        scores = node("Add", node("Div", scores, tensor(numpy.float32(numpy.sqrt(hidden // heads)))), mask)
        y = node("Transpose", node("MatMul", node("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
        x = norm(node("Add", x, linear(node("Reshape", y, tensor(numpy.array([0, -1, hidden]))), hidden, hidden)))
        y = linear(x, hidden, 2 * hidden)
        half = node("Mul", node("Mul", y, tensor(numpy.float32(0.5))), node("Add", node("Erf", node("Div", y, tensor(numpy.float32(numpy.sqrt(2))))), tensor(numpy.float32(1))))
        x = norm(node("Add", x, linear(half, 2 * hidden, hidden)))
    first = node("Gather", x, tensor(numpy.int64(0)), axis=1)
    nodes.append(helper.make_node("Gemm", [first, weights(labels, hidden), weights(labels)], ["logits"], name="classifier", transB=1))
    nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"], name="states"))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "length", hidden]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels]),
    ]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def of_texts():
    folder = FOLDER / "texts"
    folder.mkdir(exist_ok=True)
    tokenizer, vocabulary = words()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "bad", "1": "middling", "2": "good"}, "max_position_embeddings": 64}))
    model = encoder(vocabulary)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = []
    for text, pair in [("a good film", None), ("the", None), ("not a very good film and a very long film .", None), ("good music", "bad music and a film"), ("unheard of", "a . the")]:
        encoding = tokenizer.encode(text, pair)
        inputs = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        logits = session.run(["logits"], {name: numpy.array([ids]) for name, ids in inputs.items()})[0][0]
        shares = numpy.exp(logits - logits.max())
        expected.append({"text": text, "text_pair": pair, "expect": (shares / shares.sum()).astype(float).tolist()})
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


FOLDER.mkdir(exist_ok=True)
of_pipeline("logistic", make_pipeline(StandardScaler(), LogisticRegression()), lambda x: classes(x, [0, 1]), output="output_probability")
of_pipeline(
    "imputed",
    make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    lambda x: classes(x, ["cold", "tepid", "warm"]),
    gaps=0.2,
    options={"zipmap": False},
)
of_pipeline("perceptron", make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16, 8), max_iter=60, random_state=1)), lambda x: x[:, 0] * x[:, 1], output="variable")
of_pipeline("forest", RandomForestRegressor(3, max_depth=3, random_state=1), lambda x: x[:, 0] + x[:, 1] * x[:, 2], output="variable")
of_pipeline(
    "forest-classes",
    RandomForestClassifier(3, max_depth=3, random_state=1),
    lambda x: classes(x, [0, 1, 2]),
    options={"zipmap": False},
)
of_pipeline(
    "boosted",
    GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=1),
    lambda x: classes(x, [0, 1]),
    options={"zipmap": False},
)
of_columns()
of_texts()
onnx.checker.check_model(onnx.load(FOLDER / "texts" / "model.onnx"))
