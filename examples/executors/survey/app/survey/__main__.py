"""python -m survey ANSWERS OUT.csv"""

import csv
import statistics
import sys

from .read import answers

source, out = sys.argv[1:]
with open(out, "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["group", "people", "mean", "deviation"])
    for group, scores in sorted(answers(source).items()):
        rows.writerow([group, len(scores), f"{statistics.mean(scores):.2f}", f"{statistics.stdev(scores):.2f}"])
