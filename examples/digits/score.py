"""Compares predictions with the labels that the application never saw.

    score.py --predictions FILE --labels FILE [--at-least A]

A scan left undecided counts as wrong. Status 0: scored. Status 1: the accuracy is below A.
Status 2: a file is not as it must be, for instance a scan that is missing or there twice.
Standard library only.
"""

import argparse
import csv
import sys


def read(path, columns):
    """The rows of a CSV file with exactly these columns, as {id: row}."""
    with open(path, encoding="ascii", newline="") as file:
        table = csv.DictReader(file, strict=True)
        if table.fieldnames != columns:
            raise ValueError("%s: the header is not %s" % (path, ",".join(columns)))
        rows = {}
        for row in table:
            if None in row or None in row.values():
                raise ValueError("%s: line %d: not %d fields" % (path, table.line_num, len(columns)))
            if row["id"] in rows:
                raise ValueError("%s: line %d: the id is there twice" % (path, table.line_num))
            rows[row["id"]] = row
    if not rows:
        raise ValueError("%s: no rows" % path)
    return rows


def score(predictions, labels):
    """How many of the labelled scans are right, and how many were left undecided."""
    if predictions.keys() != labels.keys():
        raise ValueError(
            "%d scans have no prediction, %d predictions have no scan"
            % (len(labels.keys() - predictions.keys()), len(predictions.keys() - labels.keys()))
        )
    right = sum(predictions[name]["digit"] == row["digit"] for name, row in labels.items())
    undecided = sum(row["digit"] == "" for row in predictions.values())
    return right, undecided


def main(args):
    parser = argparse.ArgumentParser(prog="score.py", allow_abbrev=False)
    parser.add_argument("--predictions", required=True, metavar="FILE")
    parser.add_argument("--labels", required=True, metavar="FILE")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="A")
    options = parser.parse_args(args)
    try:
        predictions = read(options.predictions, ["id", "digit", "confidence"])
        labels = read(options.labels, ["id", "digit"])
        right, undecided = score(predictions, labels)
    except (OSError, ValueError, csv.Error) as problem:
        print("score: %s" % problem, file=sys.stderr)
        return 2
    accuracy = right / len(labels)
    print("%d of %d right, %d undecided" % (right, len(labels), undecided))
    print("accuracy %.4f" % accuracy)
    if not accuracy >= options.at_least:
        print("score: the accuracy is below %g" % options.at_least, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
