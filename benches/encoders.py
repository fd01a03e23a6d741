"""Kiln's models beside ONNX Runtime and PyTorch: the same weights, texts and threads, in turn.

    benches/encoders                       # makes the environment, builds Kiln, and calls this

An encoder of MiniLM's shape and an mlp 64-256-128-1, both with random weights.
"""
import argparse, hashlib, json, os, pathlib, random, statistics, subprocess, sys, time, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import numpy as np, onnxruntime, torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = ["the", "of", "and", "in", "to", "a", "is", "for"]
SIZES = [(32, 32), (32, 128), (1, 32)]
ROWS = [1, 32, 256, 1024]

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--folder", type=pathlib.Path, required=True)
a.add_argument("--threads", type=int, default=2)
a.add_argument("--seconds", type=float, default=4.0)
a.add_argument("--rounds", type=int, default=3)
a.add_argument("--only", choices=["encoder", "mlp"])
a.add_argument("--fused", action="store_true", help="also ONNX Runtime with the graph that its offline optimiser for transformers makes")
args = a.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)


class States(torch.nn.Module):
    """An encoder as a function of tokens and mask."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids, mask):
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def make_encoder(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words += [f"w{i}" for i in range(30522 - len(words))]
    t = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", model_max_length=512)
    model = BertModel(BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536), add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.ones(2, 8, dtype=torch.long)
    eager = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    axes = {"ids": {0: "b", 1: "t"}, "mask": {0: "b", 1: "t"}, "states": {0: "b", 1: "t"}}
    torch.onnx.export(States(eager), (ids, ids), folder / "model.onnx", input_names=["ids", "mask"], output_names=["states"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)
    return States(model), tokenizer


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def fused(folder):
    """The same graph after ONNX Runtime's own offline optimiser for transformers: fewer, larger operators."""
    from onnxruntime.transformers import optimizer

    model = optimizer.optimize_model(str(folder / "model.onnx"), model_type="bert", num_heads=12, hidden_size=384)
    model.save_model_to_file(str(folder / "fused.onnx"))
    return session(folder / "fused.onnx")


def timed(call, inputs):
    """Inputs a second, over the passes that fit into `args.seconds`."""
    call()
    seconds = []
    while sum(seconds) < args.seconds:
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return inputs * len(seconds) / sum(seconds)


def padded(batches, tokenizer):
    return [tokenizer(batch, padding=True, return_tensors="np") for batch in batches]


def peers(batches, tokenizer, model, sessions):
    count = sum(map(len, batches))
    cut = padded(batches, tokenizer)
    feeds = [{"ids": c["input_ids"].astype(np.int64), "mask": c["attention_mask"].astype(np.int64)} for c in cut]
    tensors = [(torch.from_numpy(f["ids"]), torch.from_numpy(f["mask"])) for f in feeds]

    def run_torch():
        with torch.inference_mode():
            for ids, mask in tensors:
                model(ids, mask)

    def run_onnx(onnx):
        for feed in feeds:
            onnx.run(None, feed)

    return *(timed(lambda: run_onnx(onnx), count) for onnx in sessions), timed(run_torch, count)


def kiln(model, *options):
    command = [args.kiln, "models", "bench", model, "--json", "--seconds", str(args.seconds), "--threads", str(args.threads), *options]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "KILN_MODELS_DIR": str(args.folder / "models")}).stdout
    return [json.loads(line)["inputs_per_s"] for line in out.splitlines()]


def make_mlp(folder):
    sizes = [64, 256, 128, 1]
    layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
    net = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2], torch.nn.Sigmoid()).eval()
    version = folder / "models/mlp/1"
    version.mkdir(parents=True)
    save_file({f"layers.{i}.{kind}": getattr(layer, kind).detach() for i, layer in enumerate(layers) for kind in ("weight", "bias")}, version / "model.safetensors")
    digest = hashlib.sha256((version / "model.safetensors").read_bytes()).hexdigest()
    (version / "manifest.toml").write_text(f"""architecture = "mlp"
[features]
count = 64
[output]
task = "scalar"
activation = "sigmoid"
[mlp]
hidden = [256, 128]
activation = "relu"
[weights]
sha256 = "{digest}"
""")
    torch.onnx.export(net, torch.zeros(2, 64), folder / "mlp.onnx", input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "b"}, "y": {0: "b"}}, opset_version=17, dynamo=False)
    return net


def show(title, names, rows):
    """A line a load: the medians of every contender, Kiln last, and Kiln's ratio to each of the others."""
    print(f"\n{title:32}" + "".join(f"{name:>16}" for name in names) + "".join(f"{'/ ' + name:>18}" for name in names[:-1]))
    for name, figures in rows:
        medians = [statistics.median(column) for column in zip(*figures)]
        ratios = [medians[-1] / median for median in medians[:-1]]
        print(f"{name:32}" + "".join(f"{m:>16,.0f}" for m in medians) + "".join(f"{r:>18.2f}" for r in ratios), flush=True)


def encoder():
    hf = args.folder / "minilm"
    model, tokenizer = make_encoder(hf)
    subprocess.run([args.kiln, "models", "import", str(hf), "--name", "minilm", "--version", "1"], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "KILN_MODELS_DIR": str(args.folder / "models")})
    sessions = [session(hf / "model.onnx")] + ([fused(hf)] if args.fused else [])

    text = lambda tokens: " ".join(WORDS[i % len(WORDS)] for i in range(tokens - 2))
    choose = random.Random(7)
    lengths = [min(128, max(4, round(choose.lognormvariate(np.log(20), 0.75)))) for _ in range(512)]
    mix = [text(length) for length in lengths]
    loads = [(f"{b} x {t} tokens", [[text(t)] * b], ("--batch", str(b), "--words", str(t - 2))) for b, t in SIZES]
    for name, texts in [("512 texts of mixed lengths", mix), ("the same, sorted by length", sorted(mix, key=len))]:
        file = args.folder / f"{len(loads)}.txt"
        file.write_text("\n".join(texts) + "\n")
        loads.append((name, [texts[i : i + 32] for i in range(0, 512, 32)], ("--batch", "32", "--file", str(file))))
    rows = [(name, []) for name, _, _ in loads]
    for _ in range(args.rounds):
        for (_, batches, options), (_, figures) in zip(loads, rows):
            figures.append((*peers(batches, tokenizer, model, sessions), kiln("minilm", *options)[0]))
    show("encoder, texts/s", ["ONNX Runtime", *(["ORT fused"] if args.fused else []), "PyTorch", "Kiln"], rows)


def mlp():
    net = make_mlp(args.folder)
    onnx = session(args.folder / "mlp.onnx")
    rows = [(f"batch {batch}", []) for batch in ROWS]
    for _ in range(args.rounds):
        ours = kiln("mlp", "--batch", ",".join(map(str, ROWS)))
        for batch, (_, figures), ours in zip(ROWS, rows, ours):
            x = torch.rand(batch, 64)
            feed = {"x": x.numpy()}

            def run_torch():
                with torch.inference_mode():
                    net(x)

            figures.append((timed(lambda: onnx.run(None, feed), batch), timed(run_torch, batch), ours))
    show("mlp 64-256-128-1, rows/s", ["ONNX Runtime", "PyTorch", "Kiln"], rows)


args.folder.mkdir(parents=True, exist_ok=True)
for name, measure in [("encoder", encoder), ("mlp", mlp)]:
    if args.only in (None, name):
        measure()
