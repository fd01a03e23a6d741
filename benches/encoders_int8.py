"""Kiln's encoder kernels in int8 beside OpenVINO's static int8 and ONNX Runtime's dynamic one: the same shape, lengths and threads, in turn.

    benches/encoders --int8                # makes the environment, builds the kernels, and calls this

An encoder of MiniLM's shape with random weights. All are measured without tokenising.
"""
import argparse, pathlib, random, re, statistics, subprocess, sys, time

import nncf, numpy as np, onnx, onnxruntime, openvino
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

HIDDEN, HEADS, BETWEEN, LAYERS, WORDS, POSITIONS = 384, 12, 1536, 6, 3000, 512
SIZES = [(32, 32), (32, 128), (1, 32)]

a = argparse.ArgumentParser()
a.add_argument("--levels", required=True, help="the kernels' example of that name, built for release")
a.add_argument("--folder", type=pathlib.Path, required=True)
a.add_argument("--threads", type=int, default=2, choices=[2])
a.add_argument("--seconds", type=float, default=2.0)
a.add_argument("--rounds", type=int, default=3)
args = a.parse_args()
chance = np.random.default_rng(1)


class Graph:
    """An encoder as ONNX operators, as exporters write it."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, kind, *inputs, **attributes):
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def random(self, *shape, scale=0.07):
        return self.weight((chance.uniform(-1, 1, shape) * scale).astype(np.float32))

    def number(self, x):
        return self.weight(np.float32(x))

    def linear(self, x, inputs, outputs):
        return self.add("Add", self.add("MatMul", x, self.random(inputs, outputs)), self.random(outputs))

    def norm(self, x):
        scale = self.weight((1 + chance.uniform(-0.3, 0.3, HIDDEN)).astype(np.float32))
        return self.add("LayerNormalization", x, scale, self.random(HIDDEN), axis=-1, epsilon=1e-12)

    def heads(self, x, order):
        parts = self.add("Reshape", x, self.weight(np.int64([0, 0, HEADS, HIDDEN // HEADS])))
        return self.add("Transpose", parts, perm=order)

    def layer(self, x, mask):
        query, key, value = (self.linear(x, HIDDEN, HIDDEN) for _ in range(3))
        query, key, value = self.heads(query, [0, 2, 1, 3]), self.heads(key, [0, 2, 3, 1]), self.heads(value, [0, 2, 1, 3])
        scores = self.add("Div", self.add("MatMul", query, key), self.number((HIDDEN // HEADS) ** 0.5))
        weights = self.add("Softmax", self.add("Add", scores, mask), axis=-1)
        attended = self.add("Transpose", self.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        attended = self.add("Reshape", attended, self.weight(np.int64([0, 0, HIDDEN])))
        x = self.norm(self.add("Add", x, self.linear(attended, HIDDEN, HIDDEN)))
        up = self.linear(x, HIDDEN, BETWEEN)
        share = self.add("Add", self.add("Erf", self.add("Div", up, self.number(2**0.5))), self.number(1))
        gelu = self.add("Mul", self.add("Mul", up, share), self.number(0.5))
        return self.norm(self.add("Add", x, self.linear(gelu, BETWEEN, HIDDEN)))

    def encoder(self):
        words = self.add("Gather", self.random(WORDS, HIDDEN, scale=1), "ids")
        x = self.norm(self.add("Add", words, self.add("Gather", self.random(POSITIONS, HIDDEN, scale=1), "positions")))
        for _ in range(LAYERS):
            x = self.layer(x, "mask")
        self.nodes.append(helper.make_node("Identity", [x], ["states"]))
        inputs = [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"]),
            helper.make_tensor_value_info("positions", TensorProto.INT64, ["t"]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["b", 1, 1, "t"]),
        ]
        outputs = [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["b", "t", HIDDEN])]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def feed(lengths):
    """A batch padded to its longest text."""
    longest = max(lengths)
    mask = np.zeros((len(lengths), 1, 1, longest), np.float32)
    for row, length in enumerate(lengths):
        mask[row, 0, 0, length:] = -1e9
    return {"ids": chance.integers(0, WORDS, (len(lengths), longest)), "positions": np.arange(longest), "mask": mask}


def peers(folder):
    """What takes a batch, by name."""
    model = folder / "encoder.onnx"
    onnx.save(Graph().encoder(), model)
    quantize_dynamic(model, folder / "dynamic.onnx", weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    dynamic = onnxruntime.InferenceSession(str(folder / "dynamic.onnx"), options, providers=["CPUExecutionProvider"])

    core = openvino.Core()
    samples = nncf.Dataset([feed([length] * 4) for length in (16, 32, 64, 128)])
    settings = {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"}
    single = core.compile_model(core.read_model(model), "CPU", settings)
    static = nncf.quantize(core.read_model(model), samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=4)
    static = core.compile_model(static, "CPU", settings)
    return {
        "ORT int8 dynamic": lambda x: dynamic.run(None, x),
        "OpenVINO f32": lambda x: single(x),
        "OpenVINO int8 static": lambda x: static(x),
    }


def fastest(call, batches):
    """Texts a second in the fastest pass over the batches, within `args.seconds`."""
    feeds, texts = [feed(batch) for batch in batches], sum(map(len, batches))
    for x in feeds:
        call(x)
    seconds, begun = [], time.perf_counter()
    while time.perf_counter() - begun < args.seconds:
        started = time.perf_counter()
        for x in feeds:
            call(x)
        seconds.append(time.perf_counter() - started)
    return texts / min(seconds)


def kiln(lengths):
    """Texts a second of each load, in floats and in int8."""
    command = [args.levels, "--encoder", ",".join(map(str, lengths))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [tuple(map(float, pair)) for pair in re.findall(r"floats (\d+), bytes (\d+)", out)]


args.folder.mkdir(parents=True, exist_ok=True)
choose = random.Random(7)
mix = [min(128, max(4, round(choose.lognormvariate(np.log(20), 0.75)))) for _ in range(512)]
loads = [(f"{b} x {t} tokens", [[t] * b]) for b, t in SIZES]
loads.append(("512 texts of mixed lengths", [mix[i : i + 32] for i in range(0, 512, 32)]))
others = peers(args.folder)
names = [*others, "Kiln f32", "Kiln int8"]
rows = [(name, []) for name, _ in loads]
for _ in range(args.rounds):
    ours = kiln(mix)
    for (name, batches), (_, figures), own in zip(loads, rows, ours):
        figures.append((*(fastest(call, batches) for call in others.values()), *own))
        print(name, *(round(figure) for figure in figures[-1]), file=sys.stderr, flush=True)
print(f"{'encoder in int8, texts/s':30}" + "".join(f"{name:>22}" for name in names) + f"{'/ OpenVINO int8':>18}{'/ Kiln f32':>14}")
for name, figures in rows:
    medians = [statistics.median(column) for column in zip(*figures)]
    print(f"{name:30}" + "".join(f"{m:>22,.0f}" for m in medians) + f"{medians[-1] / medians[2]:>18.2f}{medians[-1] / medians[-2]:>14.2f}")
