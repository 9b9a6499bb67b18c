"""app/infer.py: what it predicts, and what it refuses. score.py: what it counts."""

import json
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import example  # noqa: E402 - found through the line above

HEADER = "id," + ",".join("p%d" % i for i in range(64))
BLANK = "7" + ",0" * 64  # a valid line


def infer(case, model=None, scans=None, out="predictions.csv", more=()):
    """Runs the application on the trained model and the held-out scans unless told otherwise."""
    folder = example.trained()[0]
    model = model or os.path.join(folder, "model.json")
    scans = scans or os.path.join(folder, "scans")
    return example.start("app/infer.py", "--model", model, "--scans", scans, "--out", case.path(out), *more)


class Predictions(example.Case):
    def score(self, *more):
        labels = os.path.join(example.trained()[0], "labels.csv")
        return example.start(
            "score.py", "--predictions", self.path("predictions.csv"), "--labels", labels, *more
        )

    def test_they_score_what_training_measured(self):
        done = infer(self, more=["--threshold", "0"])
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(done.stdout.splitlines()), 2)
        want = re.search("accuracy .*", example.trained()[1]).group()
        self.assertIn(want, self.score().stdout)

    def test_every_scan_has_one_row_with_a_digit_and_a_confidence(self):
        infer(self)
        lines = self.read("predictions.csv").decode("ascii").split("\n")
        self.assertEqual((lines[0], lines[-1]), ("id,digit,confidence", ""))
        self.assertEqual(len(lines) - 2, 540)
        for line in lines[1:-1]:
            self.assertRegex(line, r"\A[0-9]+,[0-9]?,[01]\.[0-9]{2}\Z")

    def test_what_is_below_the_threshold_stays_undecided(self):
        undecided = []
        for threshold in ("0", "0.6", "1"):
            self.assertEqual(infer(self, more=["--threshold", threshold]).returncode, 0)
            undecided.append(self.read("predictions.csv").count(b",,"))
        self.assertEqual(undecided[0], 0)
        self.assertTrue(undecided[0] < undecided[1] < undecided[2], undecided)

    def test_model_and_scans_may_be_a_file_or_a_folder(self):
        folder = example.trained()[0]
        infer(self, out="one.csv")
        done = infer(self, model=folder, scans=os.path.join(folder, "scans", "scans.csv"), out="two.csv")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.read("one.csv"), self.read("two.csv"))

    def test_a_few_hundred_scans_take_less_than_a_few_seconds(self):
        example.trained()
        start = os.times().children_user  # of a processor, so that a busy machine is no failure
        infer(self)
        self.assertLess(os.times().children_user - start, 5)

    def test_a_score_too_low_is_a_failure(self):
        infer(self)
        self.assertEqual(self.score("--at-least", "0.95").returncode, 0)
        done = self.score("--at-least", "0.9999")
        self.assertEqual(done.returncode, 1)
        self.assertIn("below", done.stderr)


class RefusedScans(example.Case):
    def test_each_is_named_by_line_and_column(self):
        row = BLANK.split(",")
        table = {
            "empty": ("", "line 1"),
            "another header": ("a,b\n" + BLANK + "\n", "line 1"),
            "no scan": (HEADER + "\n", "there are 0 scans"),
            "a field missing": (HEADER + "\n" + BLANK[:-2] + "\n", "line 2: 64 fields"),
            "a field too many": (HEADER + "\n" + BLANK + ",0\n", "line 2: 66 fields"),
            "a pixel too bright": (HEADER + "\n" + ",".join(row[:3] + ["17"] + row[4:]), "column p2"),
            "a negative pixel": (HEADER + "\n" + ",".join(row[:3] + ["-1"] + row[4:]), "column p2"),
            "a broken pixel": (HEADER + "\n" + ",".join(row[:3] + ["1.5"] + row[4:]), "column p2"),
            "an empty pixel": (HEADER + "\n" + ",".join(row[:3] + [""] + row[4:]), "column p2"),
            "a pixel with a space": (HEADER + "\n" + ",".join(row[:3] + [" 1"] + row[4:]), "column p2"),
            "an id that is no number": (HEADER + "\nsecret" + BLANK[1:], "column id"),
            "an id twice": (HEADER + "\n" + BLANK + "\n" + BLANK + "\n", "line 3: the id"),
            "a blank line": (HEADER + "\n" + BLANK + "\n\n", "line 3: 1 fields"),
            "no ASCII": (HEADER + "\n" + BLANK.replace("0", "\u0660", 1), "not ASCII"),
        }
        for name, (content, where) in table.items():
            with self.subTest(name):
                done = infer(self, scans=self.write("scans.csv", content))
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(where, done.stderr)
                self.assertNotIn("secret", done.stderr)
                self.assertNotIn("Traceback", done.stderr)
                self.assertFalse(os.path.exists(self.path("predictions.csv")))

    def test_all_problems_come_at_once_up_to_ten(self):
        done = infer(self, scans=self.write("scans.csv", HEADER + "\n" + "x\n" * 3))
        self.assertEqual(len(done.stderr.splitlines()), 3)
        done = infer(self, scans=self.write("scans.csv", HEADER + "\n" + "x\n" * 30))
        self.assertEqual(len(done.stderr.splitlines()), 11)


class RefusedModels(example.Case):
    def test_each_is_refused_and_nothing_written(self):
        with open(os.path.join(example.trained()[0], "model.json"), encoding="utf-8") as file:
            text = file.read()

        def edited(edit):
            model = json.loads(text)
            edit(model)
            return json.dumps(model)

        table = {
            "empty": "",
            "no JSON": "pickle",
            "a list": "[]",
            "cut off": text[: len(text) // 2],
            "nested without end": "[" * 100_000,
            "larger than the cap": '"' + "x" * (4 << 20) + '"',
            "another format": edited(lambda m: m.update(format="other")),
            "another version": edited(lambda m: m.update(version=2)),
            "no layer": edited(lambda m: m.pop("output")),
            "a layer that is a number": edited(lambda m: m.update(hidden=1)),
            "a unit without weights": edited(lambda m: m["hidden"]["weights"].pop()),
            "a weight missing": edited(lambda m: m["hidden"]["weights"][5].pop()),
            "a weight that is text": edited(lambda m: m["hidden"]["weights"][5].__setitem__(0, "1")),
            "a weight that is true": edited(lambda m: m["hidden"]["weights"][5].__setitem__(0, True)),
            "a weight that is no number": edited(lambda m: m["output"]["weights"][5].__setitem__(0, float("nan"))),
            "a weight without end": edited(lambda m: m["output"]["biases"].__setitem__(0, float("inf"))),
            "a weight beyond a double": edited(lambda m: m["output"]["biases"].__setitem__(0, 10**400)),
            "nine digits": edited(lambda m: (m["output"]["weights"].pop(), m["output"]["biases"].pop())),
            "no hidden units": edited(lambda m: m.update(hidden={"weights": [], "biases": []})),
        }
        for name, content in table.items():
            with self.subTest(name):
                done = infer(self, model=self.write("model.json", content))
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertRegex(done.stderr, r"\Ainfer: [^\n]+\n\Z")
                self.assertFalse(os.path.exists(self.path("predictions.csv")))


class RefusedArguments(example.Case):
    def test_a_threshold_is_a_number_from_0_to_1(self):
        for text in ("", "x", "-1", "1.1", "2", "nan", "1e-1"):
            with self.subTest(text):
                self.assertEqual(infer(self, more=["--threshold", text]).returncode, 2)

    def test_what_cannot_be_opened_is_named(self):
        for args in ({"model": self.path("none")}, {"scans": self.path("none")}, {"out": "none/out.csv"}):
            with self.subTest(**args):
                done = infer(self, **args)
                self.assertEqual(done.returncode, 2)
                self.assertRegex(done.stderr, r"\Ainfer: (reading|writing) .*none.*\n\Z")


class RefusedScores(example.Case):
    def test_predictions_must_match_the_labels(self):
        labels = self.write("labels.csv", "id,digit\n1,4\n2,5\n")
        header = "id,digit,confidence\n"
        table = {
            "all right": (header + "1,4,1.00\n2,5,1.00\n", 0),
            "one undecided counts as wrong": (header + "1,4,1.00\n2,,0.10\n", 1),
            "one missing": (header + "1,4,1.00\n", 2),
            "one too many": (header + "1,4,1.00\n2,5,1.00\n3,5,1.00\n", 2),
            "one twice": (header + "1,4,1.00\n1,4,1.00\n2,5,1.00\n", 2),
            "another header": ("id,digit\n1,4\n2,5\n", 2),
            "a field missing": (header + "1,4\n2,5,1.00\n", 2),
            "a field too many": (header + "1,4,1.00,x\n2,5,1.00\n", 2),
            "empty": ("", 2),
        }
        for name, (content, want) in table.items():
            with self.subTest(name):
                done = example.start(
                    "score.py", "--labels", labels, "--at-least", "0.95",
                    "--predictions", self.write("predictions.csv", content),
                )
                self.assertEqual(done.returncode, want, done.stderr)
                self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
