#!/usr/bin/env python3
"""Train the digit classifier in models/ and write it as an ONNX file.

Needs the "models" extra: pip install -e '.[models]'. Downloads nothing.
"""
# mypy: disable-error-code="import-untyped"

import argparse
import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import sklearn
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

Array = npt.NDArray[Any]
MODELS = Path(__file__).resolve().parent.parent / "models"
OFFSETS = ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))  # (1, 1) leaves it in place
MIN_ACCURACY = 0.97
MAX_DIFFERENCE = 1e-5

README = """\
<!-- Written by scripts/make_models.py. Change the script, not this file. -->

# Models

This folder is a model repository. A model is either a folder,
`<name>/<version>/model.onnx` with an optional `<name>/model.toml`, or one file,
`<name>.onnx`. An `.onnx` file alone is enough to serve a model.

## digits

`digits` reads a handwritten digit from an 8x8 gray image.

| | name | type | shape | meaning |
|---|---|---|---|---|
| input | `image` | float32 | `[batch, 8, 8]` | raw pixels, 0 (blank) to 16 (full ink) |
| output | `probabilities` | float32 | `[batch, 10]` | one per digit, 0 to 9 |

Scaling is part of the model, so do not scale the pixels first.

- Held-out accuracy: **{accuracy:.4f}** ({correct} of n = {n}), the ONNX file run with
  onnxruntime on the CPU.
- File: `digits/1/model.onnx`, {size:,} bytes, opset 17, IR version 8, sha256
  `{sha256}`.

**Training.** The network is a scikit-learn `MLPClassifier` with 64 inputs, hidden
layers of {hidden} ReLU neurons and 10 softmax outputs. The images were split once,
by class, with a fixed seed: {n_train:,} for training, {n} held out. Training ran
for {epochs} epochs and also saw each training image moved by one pixel up, down, left
and right. The settings were chosen by cross-validation within the training part. The
held-out images were used for neither training nor choosing. All images come from the
same group of 13 writers, so expect lower accuracy on other people's writing.

**Samples.** `digits/samples/digit_0.npy` to `digit_9.npy` hold one image per digit,
float32, shape `(8, 8)`. Each is the first held-out image of its class that the model
gets right. They are picked to be correct, so they say nothing about accuracy.
`digits/samples/heldout.npz` is the whole held-out part, mistakes included: `images` is
uint8 `({n}, 8, 8)` and `labels` is uint8 `({n},)`.

**Data.** The test part of *Optical Recognition of Handwritten Digits* by E. Alpaydin
and C. Kaynak (1998), UCI Machine Learning Repository,
<https://doi.org/10.24432/C50P49>, which UCI offers under
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). The copy used is the one in
scikit-learn (`load_digits`), whose description names UCI and states no license. The
sample files hold unchanged pixel values in another file format.

**Make it again.** `pip install -e '.[models]'`, then `python scripts/make_models.py`.
This copy was made with {versions}. A second run
on the same machine with the same versions writes the same bytes. Another processor or
version may round differently and give a slightly different model.
"""


def flat(images: Array) -> Array:
    """Scale and flatten float32 images as the ONNX graph does."""
    scaled: Array = images.reshape(-1, 64) * np.float32(1 / 16)
    return scaled


def train(images: Array, labels: Array) -> MLPClassifier:
    """Fit the classifier on the training images and copies moved by one pixel."""
    pad = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    augmented = np.concatenate([pad[:, y : y + 8, x : x + 8] for y, x in OFFSETS])
    model = MLPClassifier((128, 64), alpha=0.1, max_iter=100, random_state=0)
    # One thread: sums split over threads would depend on the number of cores.
    with threadpool_limits(1), warnings.catch_warnings():
        # The number of epochs is fixed on purpose, so reaching it is no problem.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(flat(augmented), np.tile(labels, len(OFFSETS)))


def to_onnx(model: MLPClassifier) -> bytes:
    """Build the same network in ONNX, from ops that also have CUDA kernels."""
    weights = {"scale": np.array(1 / 16, np.float32)}
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [node("Mul", ["image", "scale"], ["scaled"])]
    nodes.append(node("Flatten", ["scaled"], ["relu_0"], axis=1))
    last = len(model.coefs_)
    for i, layer in enumerate(zip(model.coefs_, model.intercepts_, strict=True), 1):
        weights[f"w_{i}"], weights[f"b_{i}"] = layer
        nodes.append(node("Gemm", [f"relu_{i - 1}", f"w_{i}", f"b_{i}"], [f"gemm_{i}"]))
        if i < last:
            nodes.append(node("Relu", [f"gemm_{i}"], [f"relu_{i}"]))
    nodes.append(node("Softmax", [f"gemm_{last}"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [value("image", TensorProto.FLOAT, ["batch", 8, 8])],
        [value("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def write(out: Path, data: bytes, images: Array, labels: Array, right: Array) -> None:
    """Write the model, the whole held-out part, and one correct image per digit."""
    samples = out / "digits" / "samples"
    for folder in (samples, out / "digits" / "1"):
        folder.mkdir(parents=True, exist_ok=True)
    (out / "digits" / "1" / "model.onnx").write_bytes(data)
    pixels, classes = images.astype(np.uint8), labels.astype(np.uint8)
    np.savez(samples / "heldout.npz", images=pixels, labels=classes)
    for digit in range(10):
        first = np.flatnonzero((labels == digit) & right)[0]
        np.save(samples / f"digit_{digit}.npy", images[first])


def main() -> int:
    """Train, check, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    text = "folder to write to (default: the repository's models folder)"
    parser.add_argument("--out", type=Path, default=MODELS, metavar="DIR", help=text)
    out: Path = parser.parse_args().out

    images, labels = load_digits().images.astype(np.float32), load_digits().target
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    model = train(x_train, y_train)
    data = to_onnx(model)
    # Check before writing anything, so a bad run leaves the old files alone.
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    output = np.asarray(session.run(["probabilities"], {"image": x_test})[0])
    right = output.argmax(axis=1) == y_test
    accuracy, correct, n = float(right.mean()), int(right.sum()), len(right)
    difference = float(np.abs(output - model.predict_proba(flat(x_test))).max())
    print(f"held-out accuracy {accuracy:.4f} ({correct} of {n})")
    print(f"largest difference from scikit-learn {difference:.1e}")
    if not (accuracy >= MIN_ACCURACY and difference <= MAX_DIFFERENCE):
        print("error: the model is not good enough; nothing written", file=sys.stderr)
        return 1
    write(out, data, x_test, y_test, right)
    versions = f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"
    text = README.format(
        accuracy=accuracy,
        correct=correct,
        n=n,
        n_train=len(y_train),
        size=len(data),
        sha256=(sha256 := hashlib.sha256(data).hexdigest()),
        hidden=model.hidden_layer_sizes,
        epochs=model.n_iter_,
        versions=f"{versions} and onnx {onnx.__version__}",
    )
    (out / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {out} (model {len(data):,} bytes, sha256 {sha256})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
