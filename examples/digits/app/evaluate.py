"""Says how often a model is right about scans whose digits are known.

    evaluate.py --model PATH --reference FOLDER --out PATH

FOLDER holds scans.csv, as infer.py reads it, and labels.csv with the header id,digit. The output
is a CSV file with the columns metric and value: how many scans there are, how many the model is
right about, and the share of them. Status 0: done. Status 2: an argument or an input is not as
it must be, and then nothing was written. Standard library only.
"""

import argparse
import csv
import os
import sys

import infer
import network

MAX_LABELS = 8 << 20  # bytes


def read_labels(path):
    """The digit of each id. Raises infer.ScansError or OSError."""
    with open(path, "rb") as file:
        raw = file.read(MAX_LABELS + 1)
    if len(raw) > MAX_LABELS:
        raise infer.ScansError("the labels are larger than %d bytes" % MAX_LABELS)
    try:
        rows = list(csv.reader(raw.decode("ascii").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise infer.ScansError("the labels are no CSV file in ASCII") from None
    if not rows or rows[0] != ["id", "digit"]:
        raise infer.ScansError("line 1: the header of the labels is not id,digit")
    labels = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or row[0] in labels or row[1] not in list("0123456789"):
            raise infer.ScansError("line %d of the labels: not an id of its own and a digit" % number)
        labels[row[0]] = int(row[1])
    return labels


def score(model, scans, labels):
    """Rows of metric and value. Raises infer.ScansError if a scan has no label."""
    if {name for name, _ in scans} != labels.keys():
        raise infer.ScansError("scans and labels are not of the same ids")
    right = sum(model.classify(pixels)[0] == labels[name] for name, pixels in scans)
    return [["scans", len(scans)], ["right", right], ["accuracy", "%.4f" % (right / len(scans))]]


def main(args):
    parser = argparse.ArgumentParser(prog="evaluate.py", allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="PATH")
    parser.add_argument("--reference", required=True, metavar="FOLDER")
    parser.add_argument("--out", required=True, metavar="PATH")
    options = parser.parse_args(args)
    try:
        model = network.read(network.find(options.model, "model.json"))
        scans = infer.read_scans(os.path.join(options.reference, "scans.csv"))
        labels = read_labels(os.path.join(options.reference, "labels.csv"))
        rows = score(model, scans, labels)
        with open(options.out, "w", encoding="ascii", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["metric", "value"])
            table.writerows(rows)
    except (OSError, ValueError) as problem:
        print("evaluate: %s" % problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
