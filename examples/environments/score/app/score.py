"""Reads digits with an ONNX model, on ONNX Runtime.

    score.py MODEL DATA PREDICTIONS
"""

import csv
import gzip
import sys

import numpy as np
import onnxruntime


def main(model, data, predictions):
    with gzip.open(data, "rt", encoding="ascii", newline="") as file:
        rows = [[int(field) for field in row] for row in csv.reader(file)]
    pixels = np.array([row[:64] for row in rows], dtype=np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (digits,) = session.run(["digit"], {"pixels": pixels})
    with open(predictions, "w", encoding="ascii", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["id", "digit"])
        out.writerows(enumerate(digits.tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
