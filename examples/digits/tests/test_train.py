"""train.py: what it learns from, what it measures, what it writes."""

import csv
import gzip
import hashlib
import os
import random
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import example  # noqa: E402 - found through the line above

DATA = os.path.join(example.ROOT, "data", "digits.csv.gz")


def rows(path):
    with open(path, encoding="ascii", newline="") as file:
        return list(csv.reader(file))


def measured(printed):
    return float(re.search(r"^held-out accuracy ([0-9.]+)$", printed, re.M).group(1))


class Data(unittest.TestCase):
    def test_the_data_is_what_its_source_says(self):
        with open(DATA, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        for name in ("SOURCE.md", "fetch.sh"):
            with open(os.path.join(example.ROOT, "data", name), encoding="utf-8") as file:
                self.assertIn(digest, file.read(), name)


class Trained(example.Case):
    def test_held_out_accuracy_is_at_least_95_percent(self):
        self.assertGreaterEqual(measured(example.trained()[1]), 0.95)

    def test_the_model_is_of_moderate_size(self):
        size = os.path.getsize(os.path.join(example.trained()[0], "model.json"))
        self.assertTrue(20_000 <= size <= 200_000, size)

    def test_scans_carry_no_label_and_agree_with_the_labels_beside_them(self):
        folder = example.trained()[0]
        self.assertEqual(os.listdir(os.path.join(folder, "scans")), ["scans.csv"])
        scans = rows(os.path.join(folder, "scans", "scans.csv"))
        labels = rows(os.path.join(folder, "labels.csv"))
        self.assertEqual({len(row) for row in scans}, {65})
        self.assertEqual([row[0] for row in scans], [row[0] for row in labels])
        with gzip.open(DATA, "rt") as file:
            data = [line.strip().split(",") for line in file]
        for scan, label in zip(scans[1:], labels[1:]):
            self.assertEqual(scan[1:] + label[1:], data[int(scan[0])])

    def test_three_tenths_are_held_out(self):
        scans = rows(os.path.join(example.trained()[0], "scans", "scans.csv"))
        self.assertEqual(len(scans) - 1, 1797 - 1797 * 7 // 10)


class Honest(example.Case):
    """Training again, for one or two epochs, with something changed."""

    def train(self, name, data=DATA, epochs=1):
        done = example.start("train.py", "--out", self.path(name), "--data", data, "--epochs", epochs)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.read(name, "model.json"), measured(done.stdout)

    def changed(self, name, change):
        """The data with change(row number, fields) applied, in a file."""
        with gzip.open(DATA, "rt") as file:
            lines = [change(i, line.strip().split(",")) for i, line in enumerate(file)]
        with gzip.open(self.path(name), "wt") as file:
            file.writelines(",".join(fields) + "\n" for fields in lines)
        return self.path(name)

    def test_the_same_seed_gives_the_same_bytes(self):
        self.assertEqual(self.train("once"), self.train("again"))

    def test_held_out_scans_never_touch_training(self):
        model, accuracy = self.train("plain")
        held_out = {int(row[0]) for row in rows(self.path("plain", "labels.csv"))[1:]}

        def spoil(row, fields):
            return ["16"] * 64 + ["0"] if row in held_out else fields

        spoilt, other = self.train("spoilt", self.changed("spoilt.csv.gz", spoil))
        self.assertEqual(model, spoilt)
        self.assertNotEqual(accuracy, other, "the measurement does not look at the held-out scans")

    def test_labels_without_sense_cannot_be_learnt(self):
        chance = random.Random(1)

        def shuffle(_, fields):
            return fields[:-1] + [str(chance.randrange(10))]

        self.assertLess(self.train("nonsense", self.changed("n.csv.gz", shuffle), 2)[1], 0.3)


class Refused(example.Case):
    def test_data_that_is_none(self):
        table = {
            "no gzip": b"0,1,2\n",
            "a pixel too bright": gzip.compress(b"17," + b"0," * 63 + b"1\n"),
            "a column missing": gzip.compress(b"0," * 63 + b"1\n"),
            "no digit": gzip.compress(b"0," * 64 + b"10\n"),
            "no number": gzip.compress(b"x," + b"0," * 63 + b"1\n"),
            "a single scan": gzip.compress(b"0," * 64 + b"1\n"),
            "cut off": gzip.compress(b"0," * 64 + b"1\n")[:-9],
        }
        for name, content in table.items():
            with self.subTest(name):
                with open(self.path("data.gz"), "wb") as file:
                    file.write(content)
                done = example.start("train.py", "--out", self.path("out"), "--data", self.path("data.gz"))
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertRegex(done.stderr, r"\Atrain: [^\n]+\n\Z")
                self.assertFalse(os.path.exists(self.path("out")))


if __name__ == "__main__":
    unittest.main()
