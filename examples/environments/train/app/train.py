"""Trains a digit classifier with scikit-learn and writes it as an ONNX model.

    train.py DATA MODEL REPORT

DATA is gzipped CSV: 64 pixels of 0 to 16 and the digit. Every third row is held out; REPORT says how
many of those the model reads rightly.
"""

import csv
import gzip
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler


def main(data, model_file, report_file):
    with gzip.open(data, "rt", encoding="ascii", newline="") as file:
        rows = np.array([[int(field) for field in row] for row in csv.reader(file)])
    held_out = np.arange(len(rows)) % 3 == 0
    pixels, digits = rows[:, :-1].astype(np.float32), rows[:, -1]
    network = MLPClassifier(hidden_layer_sizes=(48,), max_iter=60, random_state=1998)
    model = make_pipeline(MinMaxScaler((0, 1)), network)
    model.fit(pixels[~held_out], digits[~held_out])
    right = int((model.predict(pixels[held_out]) == digits[held_out]).sum())
    onnx.save(graph(model[0], network), model_file)
    with open(report_file, "w", encoding="ascii", newline="") as file:
        csv.writer(file).writerows([["scans", "right"], [int(held_out.sum()), right]])


def graph(scaler, network):
    """The fitted pipeline as an ONNX model: pixels in, digit out."""
    constants = {
        "scale": scaler.scale_, "offset": scaler.min_,
        "w0": network.coefs_[0], "b0": network.intercepts_[0],
        "w1": network.coefs_[1], "b1": network.intercepts_[1],
    }
    nodes = [
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["values"]),
        helper.make_node("Gemm", ["values", "w0", "b0"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w1", "b1"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["digit"], axis=1, keepdims=0),
    ]
    built = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("digit", TensorProto.INT64, ["n"])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
