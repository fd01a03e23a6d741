"""PyTorch on an NVIDIA card, beside `cargo run --release -p kiln-cuda --example speed`: the same shapes with random weights, texts as
tokens already, from the processor's memory and back. Passes hold at most 16,384 tokens with their padding; the 4,096 texts of many
lengths are sorted, which pads them least. Prints items/s and the median of a request in milliseconds.

    python3 benches/encoders_card.py
"""

import itertools
import math
import time

import torch
import torch.nn.functional as F

HIDDEN, BETWEEN, LAYERS, HEADS, VOCABULARY = 384, 1536, 6, 12, 30_522
MAX_TOKENS = 16_384
SECONDS = 0.5


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query_key_value = torch.nn.Linear(HIDDEN, 3 * HIDDEN)
        self.attended = torch.nn.Linear(HIDDEN, HIDDEN)
        self.attended_norm = torch.nn.LayerNorm(HIDDEN)
        self.up = torch.nn.Linear(HIDDEN, BETWEEN)
        self.down = torch.nn.Linear(BETWEEN, HIDDEN)
        self.norm = torch.nn.LayerNorm(HIDDEN)

    def forward(self, x, mask):
        batch, length, _ = x.shape
        heads = self.query_key_value(x).view(batch, length, 3, HEADS, HIDDEN // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, length, HIDDEN)
        x = self.attended_norm(x + self.attended(attended))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = torch.nn.Embedding(512, HIDDEN)
        self.types = torch.nn.Embedding(2, HIDDEN)
        self.norm = torch.nn.LayerNorm(HIDDEN)
        self.layers = torch.nn.ModuleList([Layer() for _ in range(LAYERS)])

    def forward(self, ids, mask):
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.types.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, None if mask is None else mask[:, None, None, :])
        if mask is None:
            return x.mean(1)
        weights = mask.to(x.dtype)[..., None]
        return (x * weights).sum(1) / weights.sum(1)


def many_lengths():
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(4096, generator=generator).tolist()
    return sorted(int(min(512, max(3, math.exp(3.26 + 0.9 * z)))) for z in normal)


LOADS = [
    ("1 of 32 tokens", [32]),
    ("32 of 32", [32] * 32),
    ("32 of 128", [128] * 32),
    ("512 of 32", [32] * 512),
    ("512 of 128", [128] * 512),
    ("2,048 of 32", [32] * 2048),
    ("128 of 512", [512] * 128),
    ("4,096 of many lengths", many_lengths()),
]


def passes(lengths):
    batch = []
    for length in lengths:
        if batch and max([*batch, length]) * (len(batch) + 1) > MAX_TOKENS:
            yield batch
            batch = []
        batch.append(length)
    yield batch


def tokens(lengths):
    longest = max(lengths)
    ids = torch.randint(0, VOCABULARY, (len(lengths), longest))
    if min(lengths) == longest:
        return ids, None
    return ids, torch.arange(longest)[None] < torch.tensor(lengths)[:, None]


def median(run):
    for _ in range(3):
        run()
    began, times = time.monotonic(), []
    while len(times) < 5 or (len(times) < 400 and time.monotonic() - began < SECONDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def show(kind, name, items, seconds):
    print(f"{kind} {name:>24} {items / seconds:12.0f} {seconds * 1e3:10.2f}", flush=True)


@torch.inference_mode()
def measure(kind, dtype, encoder):
    encoder = encoder.to(dtype)
    for name, lengths in LOADS:
        batches = [tokens(one) for one in passes(lengths)]

        def encode():
            for ids, mask in batches:
                encoder(ids.cuda(), None if mask is None else mask.cuda()).float().cpu()

        show(kind, name, len(lengths), median(encode))
    for sizes in ([64, 256, 128, 1], [512, 4096, 4096, 1024, 1]):
        layers = [torch.nn.Linear(*size) for size in itertools.pairwise(sizes)]
        stack = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.ReLU())))
        stack = stack.cuda().to(dtype)
        for rows in (1, 64, 1024, 8192):
            x = torch.randn(rows, sizes[0])
            seconds = median(lambda: stack(x.cuda().to(dtype)).float().cpu())
            show(kind, f"{rows} rows of {sizes[0]}", rows, seconds)


def main():
    torch.manual_seed(0)
    print(torch.__version__, torch.cuda.get_device_name(0))
    encoder = Encoder().cuda().eval()
    for kind, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float16)):
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        measure(kind, dtype, encoder)


if __name__ == "__main__":
    main()
