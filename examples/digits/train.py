"""Trains the digit model of this example and measures it on scans that it never saw.

    train.py --out FOLDER [--data FILE] [--seed N] [--epochs N]

Writes FOLDER/model.json, and of the held-out scans FOLDER/scans/scans.csv (no labels) and
FOLDER/labels.csv. A fixed shuffle takes 70 % of the data for training; the rest is only
looked at by the measurement. The same interpreter, seed and data give the same bytes.
Standard library only.
"""

import argparse
import csv
import gzip
import math
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "app"))

import network  # noqa: E402 - the application's own module, found through the line above

SEED = 1998  # the year of the data set; not chosen by its result
HIDDEN = 48
EPOCHS = 12
RATE = 0.1  # of learning, falling to 0 over the epochs
SURE = 0.99  # a scan whose digit is this probable teaches nothing more
DECIMALS = 6  # of a weight in the model file


def read_data(path):
    """A list of (pixels, digit) from a gzipped CSV file of 65 columns."""
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        rows = [[int(field) for field in row] for row in csv.reader(file)]
    for number, row in enumerate(rows, start=1):
        if len(row) != network.PIXELS + 1 or not 0 <= row[-1] < network.DIGITS:
            raise ValueError("line %d: not 64 pixels and a digit" % number)
        if not all(0 <= pixel <= network.BRIGHTEST for pixel in row[:-1]):
            raise ValueError("line %d: a pixel is not from 0 to 16" % number)
    return [(row[:-1], row[-1]) for row in rows]


def split(count, seed):
    """Two lists of row numbers, for training and held out, that have none in common."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    cut = count * 7 // 10
    return sorted(order[:cut]), sorted(order[cut:])


def train(scans, seed, epochs):
    """A network fitted to a list of (pixels, digit) by stochastic gradient descent."""
    chance = random.Random(seed)
    model = network.Network(
        layer(chance, HIDDEN, network.PIXELS), layer(chance, network.DIGITS, HIDDEN)
    )
    lessons = [(network.scale(pixels), digit) for pixels, digit in scans]
    for epoch in range(epochs):
        chance.shuffle(lessons)
        rate = RATE * (1 - epoch / epochs)
        for values, digit in lessons:
            learn(model, values, digit, rate)
    return model


def layer(chance, units, inputs):
    """A layer of small random weights."""
    spread = math.sqrt(2 / inputs)
    weights = [[chance.gauss(0, spread) for _ in range(inputs)] for _ in range(units)]
    return network.Layer(weights, [0.0] * units)


def learn(model, values, digit, rate):
    """One step down the gradient of the cross entropy."""
    active, slope = model.forward(values)
    if slope[digit] > SURE:
        return
    slope[digit] -= 1.0  # the derivative of softmax and cross entropy together
    hidden, output = model.hidden, model.output
    for j, value in enumerate(active):
        if value > 0.0:  # a silent unit passes no gradient
            step = rate * sum(s * row[j] for s, row in zip(slope, output.weights))
            hidden.weights[j] = [w - step * v for w, v in zip(hidden.weights[j], values)]
            hidden.biases[j] -= step
    for k, s in enumerate(slope):
        step = rate * s
        output.weights[k] = [w - step * v for w, v in zip(output.weights[k], active)]
        output.biases[k] -= step


def accuracy(model, scans):
    """The share of (pixels, digit) that the model takes for the right digit."""
    return sum(model.classify(pixels)[0] == digit for pixels, digit in scans) / len(scans)


def write_held_out(folder, data, rows):
    """The scans for the application, and the labels apart from them."""
    os.makedirs(os.path.join(folder, "scans"), exist_ok=True)
    with open(os.path.join(folder, "scans", "scans.csv"), "w", encoding="ascii", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id"] + ["p%d" % i for i in range(network.PIXELS)])
        table.writerows([row] + data[row][0] for row in rows)
    with open(os.path.join(folder, "labels.csv"), "w", encoding="ascii", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "digit"])
        table.writerows([row, data[row][1]] for row in rows)


def main(args):
    parser = argparse.ArgumentParser(prog="train.py", allow_abbrev=False)
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--data", default=os.path.join(HERE, "data", "digits.csv.gz"), metavar="FILE")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N")
    options = parser.parse_args(args)
    if options.epochs < 1:
        parser.error("argument --epochs: not 1 or more")
    start = time.monotonic()
    try:
        data = read_data(options.data)
        training, held_out = split(len(data), options.seed)
        if not training or not held_out:
            raise ValueError("%d scans are too few to hold some out" % len(data))
        model = train([data[row] for row in training], options.seed, options.epochs)
        os.makedirs(options.out, exist_ok=True)
        path = os.path.join(options.out, "model.json")
        network.write(path, model, DECIMALS)
        write_held_out(options.out, data, held_out)
        measured = accuracy(network.read(path), [data[row] for row in held_out])
    except (OSError, EOFError, ValueError) as problem:
        print("train: %s" % problem, file=sys.stderr)
        return 2
    print("trained on %d scans in %.1f s, %d held out" % (len(training), time.monotonic() - start, len(held_out)))
    print("wrote %s, %d bytes" % (path, os.path.getsize(path)))
    print("held-out accuracy %.4f" % measured)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
