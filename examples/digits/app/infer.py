"""Reads scans of handwritten digits and writes what a model takes them for.

    infer.py --model PATH --scans PATH --out PATH [--threshold T]

PATH of the model and of the scans is a file, or a folder that holds model.json or scans.csv.
The scans are a CSV file with the header id,p0,…,p63. The output is a CSV file with the columns
id, digit and confidence, in the order of the scans; the digit stays empty where the confidence
is below T. Status 0: done. Status 2: an argument or an input is not as it must be, and then
nothing was written, or the output cannot be written. Messages name lines and columns, never
what is in them. Standard library only.
"""

import argparse
import csv
import re
import sys

import network

MAX_BYTES = 64 << 20  # a file of scans
MAX_SCANS = 100_000
MAX_PROBLEMS = 10  # reported at once
HEADER = ["id"] + ["p%d" % i for i in range(network.PIXELS)]


class ScansError(ValueError):
    """The file of scans is not as it must be; the text says where, a line for each problem."""


def read_scans(path):
    """A list of (id, pixels). Raises ScansError or OSError."""
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ScansError("the scans are larger than %d bytes" % MAX_BYTES)
    try:
        lines = raw.decode("ascii").splitlines()
    except UnicodeDecodeError as cause:
        raise ScansError("byte %d of the scans is not ASCII" % cause.start) from None
    if not lines or lines[0].split(",") != HEADER:
        raise ScansError("line 1: the header is not id,p0,…,p%d" % (network.PIXELS - 1))
    if not 1 <= len(lines) - 1 <= MAX_SCANS:
        raise ScansError("there are %d scans, not 1 to %d" % (len(lines) - 1, MAX_SCANS))
    scans, seen, problems = [], set(), []
    for number, line in enumerate(lines[1:], start=2):
        try:
            scan = read_scan(line)
            if scan[0] in seen:
                raise ScansError("the id is there twice")
            seen.add(scan[0])
            scans.append(scan)
        except ScansError as problem:
            problems.append("line %d: %s" % (number, problem))
            if len(problems) == MAX_PROBLEMS:
                problems.append("further lines were not looked at")
                break
    if problems:
        raise ScansError("\n".join(problems))
    return scans


def read_scan(line):
    """(id, pixels) of one line."""
    fields = line.split(",")
    if len(fields) != len(HEADER):
        raise ScansError("%d fields, not %d" % (len(fields), len(HEADER)))
    if not re.fullmatch("[0-9]{1,9}", fields[0]):
        raise ScansError("column id: not a number of 1 to 9 digits")
    for name, field in zip(HEADER[1:], fields[1:]):
        if not re.fullmatch("[0-9]{1,2}", field) or int(field) > network.BRIGHTEST:
            raise ScansError("column %s: not an integer from 0 to %d" % (name, network.BRIGHTEST))
    return fields[0], [int(field) for field in fields[1:]]


def predictions(model, scans, least):
    """Rows of id, digit and confidence; the digit is empty where the confidence is below least."""
    rows = []
    for name, pixels in scans:
        digit, confidence = model.classify(pixels)
        rows.append([name, digit if confidence >= least else "", "%.2f" % confidence])
    return rows


def write_predictions(path, rows):
    with open(path, "w", encoding="ascii", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "digit", "confidence"])
        table.writerows(rows)


def threshold(text):
    """A confidence from 0 to 1, for argparse."""
    if not re.fullmatch(r"[01]|[01]?\.[0-9]{1,6}", text) or float(text) > 1:
        raise argparse.ArgumentTypeError("not a number from 0 to 1")
    return float(text)


def main(args):
    parser = argparse.ArgumentParser(prog="infer.py", allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="PATH")
    parser.add_argument("--scans", required=True, metavar="PATH")
    parser.add_argument("--out", required=True, metavar="PATH")
    parser.add_argument("--threshold", type=threshold, default=0.5, metavar="T")
    options = parser.parse_args(args)
    try:
        model = network.read(network.find(options.model, "model.json"))
        scans = read_scans(network.find(options.scans, "scans.csv"))
    except (network.ModelError, ScansError) as problem:
        for line in str(problem).splitlines():
            print("infer: %s" % line, file=sys.stderr)
        return 2
    except OSError as problem:
        print("infer: reading inputs: %s" % problem, file=sys.stderr)
        return 2
    rows = predictions(model, scans, options.threshold)
    try:
        write_predictions(options.out, rows)
    except OSError as problem:
        print("infer: writing predictions: %s" % problem, file=sys.stderr)
        return 2
    print("read %d scans and a model of %d hidden units" % (len(scans), len(model.hidden.biases)))
    undecided = sum(digit == "" for _, digit, _ in rows)
    print("wrote %d predictions, %d of them undecided" % (len(rows), undecided))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
