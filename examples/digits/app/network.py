"""The digit network: two layers that turn a scan of 64 pixels into a digit and a confidence.

Owns the shape of a model and its file format. A model file comes from somebody else, so
reading one checks its size, its shape and every number, and never executes any of it.
Standard library only.
"""

import json
import math
import os
from operator import mul

PIXELS = 64  # a scan is 8x8, row by row
BRIGHTEST = 16  # a pixel is an integer from 0 to 16
DIGITS = 10

FORMAT = "cloister-example-digits"
VERSION = 1
MAX_BYTES = 4 << 20  # a model file
MAX_HIDDEN = 1024  # units in the hidden layer


class ModelError(ValueError):
    """The model file is not one that this program reads."""


class Layer:
    """Weights, a list for each unit, and a bias for each unit."""

    def __init__(self, weights, biases):
        self.weights = weights
        self.biases = biases

    def sums(self, values):
        """The weighted sum of values for each unit."""
        return [sum(map(mul, row, values), bias) for row, bias in zip(self.weights, self.biases)]


class Network:
    """A hidden layer with rectified units and an output layer with a softmax."""

    def __init__(self, hidden, output):
        self.hidden = hidden
        self.output = output

    def forward(self, values):
        """The hidden activations and the probability of each digit, for scaled pixels."""
        active = [v if v > 0.0 else 0.0 for v in self.hidden.sums(values)]
        scores = self.output.sums(active)
        top = max(scores)
        powers = [math.exp(s - top) for s in scores]
        total = sum(powers)
        return active, [p / total for p in powers]

    def classify(self, scan):
        """The most probable digit of a scan (64 integers from 0 to 16) and its probability."""
        probabilities = self.forward(scale(scan))[1]
        confidence = max(probabilities)
        return probabilities.index(confidence), confidence


def scale(scan):
    """Pixels as numbers from 0 to 1."""
    return [pixel / BRIGHTEST for pixel in scan]


def find(path, name):
    """path itself, or the file called name in it if path is a folder."""
    return os.path.join(path, name) if os.path.isdir(path) else path


def read(path):
    """The network in the file path. Raises ModelError or OSError."""
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ModelError("the model is larger than %d bytes" % MAX_BYTES)
    try:
        model = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as cause:
        raise ModelError("the model is no JSON") from cause
    if not isinstance(model, dict) or model.get("format") != FORMAT:
        raise ModelError("the model is not of the format %r" % FORMAT)
    if model.get("version") != VERSION:
        raise ModelError("the model is not of version %d" % VERSION)
    hidden = _layer(model, "hidden", PIXELS)
    units = len(hidden.biases)
    if not 1 <= units <= MAX_HIDDEN:
        raise ModelError("the hidden layer has %d units, not 1 to %d" % (units, MAX_HIDDEN))
    output = _layer(model, "output", units)
    if len(output.biases) != DIGITS:
        raise ModelError("the output layer has %d units, not %d" % (len(output.biases), DIGITS))
    return Network(hidden, output)


def write(path, network, decimals):
    """Writes the network with each number rounded to a number of decimals."""

    def rounded(layer):
        return {
            "biases": [round(b, decimals) for b in layer.biases],
            "weights": [[round(w, decimals) for w in row] for row in layer.weights],
        }

    model = {
        "format": FORMAT,
        "version": VERSION,
        "hidden": rounded(network.hidden),
        "output": rounded(network.output),
    }
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(model, file, separators=(",", ":"))
        file.write("\n")


def _layer(model, name, inputs):
    layer = model.get(name)
    if not isinstance(layer, dict):
        raise ModelError("%s is no layer" % name)
    weights, biases = layer.get("weights"), layer.get("biases")
    if not isinstance(weights, list) or not isinstance(biases, list) or len(weights) != len(biases):
        raise ModelError("%s: weights and biases are not two lists of one length" % name)
    checked = [_numbers(row, inputs, "%s.weights[%d]" % (name, i)) for i, row in enumerate(weights)]
    return Layer(checked, _numbers(biases, len(biases), "%s.biases" % name))


def _numbers(values, count, name):
    if not isinstance(values, list) or len(values) != count:
        raise ModelError("%s is not a list of %d numbers" % (name, count))
    for i, value in enumerate(values):
        # A bool is an int in Python, and JSON as Python reads it knows NaN and Infinity.
        if type(value) not in (int, float) or not -1e6 <= value <= 1e6:
            raise ModelError("%s[%d] is not a number from -1e6 to 1e6" % (name, i))
    return [float(value) for value in values]
