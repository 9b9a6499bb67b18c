import csv
from collections import defaultdict


def answers(path):
    """The scores of each group."""
    groups = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            groups[row["group"]].append(float(row["score"]))
    return groups
