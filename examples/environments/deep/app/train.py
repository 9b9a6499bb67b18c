"""Trains a convolutional network over digits with TensorFlow, and says how well it reads.

    train.py DATA REPORT
"""

import csv
import gzip
import json
import sys

import numpy as np
import tensorflow as tf


def main(data, report):
    tf.keras.utils.set_random_seed(1998)
    with gzip.open(data, "rt", encoding="ascii", newline="") as file:
        rows = np.array([[int(field) for field in row] for row in csv.reader(file)])
    held_out = np.arange(len(rows)) % 3 == 0
    images = (rows[:, :-1] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    digits = rows[:, -1]
    model = tf.keras.Sequential([
        tf.keras.layers.Conv2D(16, 3, activation="relu"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(10),
    ])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images[~held_out], digits[~held_out], epochs=12, verbose=0)
    right = model.predict(images[held_out], verbose=0).argmax(axis=1) == digits[held_out]
    with open(report, "w", encoding="ascii") as file:
        json.dump({"scans": int(held_out.sum()), "right": int(right.sum())}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
