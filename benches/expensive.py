"""A model that costs a millisecond or two an input, for measurements of what others wait for."""
import hashlib
import numpy
from safetensors.numpy import save_file

WIDTH = 4


def make_model(folder, hidden=4_096):
    """An mlp of 34 million weights: a millisecond or two an input."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden, rng = [hidden] * 3, numpy.random.default_rng(1)
    sizes, tensors = [WIDTH, *hidden, 1], {}
    for i, (m, n) in enumerate(zip(sizes, sizes[1:])):
        tensors[f"layers.{i}.weight"] = (rng.standard_normal((n, m)) / m**0.5).astype(numpy.float32)
        tensors[f"layers.{i}.bias"] = numpy.zeros(n, numpy.float32)
    save_file(tensors, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.toml").write_text(f'''architecture = "mlp"

[features]
count = {WIDTH}

[output]
task = "scalar"
activation = "sigmoid"

[mlp]
hidden = {hidden}
activation = "relu"

[weights]
file = "model.safetensors"
sha256 = "{sha256}"
''')
