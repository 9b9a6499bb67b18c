"""evaluate.py scores a model against labels, and refuses what is no reference."""

import os
import shutil
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import example  # noqa: E402 - found through the line above


class Evaluate(example.Case):
    def reference(self):
        trained, _ = example.trained()
        folder = self.path("reference")
        if not os.path.isdir(folder):
            os.mkdir(folder)
            shutil.copy(os.path.join(trained, "scans", "scans.csv"), folder)
            shutil.copy(os.path.join(trained, "labels.csv"), folder)
        return trained, folder

    def evaluate(self):
        trained, folder = self.reference()
        out = self.path("score.csv")
        model = os.path.join(trained, "model.json")
        return example.start(os.path.join("app", "evaluate.py"), "--model", model, "--reference", folder, "--out", out), out

    def test_the_score_is_the_share_of_what_is_right(self):
        done, out = self.evaluate()
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        with open(out, encoding="ascii") as file:
            rows = dict(line.strip().split(",") for line in file)
        self.assertEqual(list(rows), ["metric", "scans", "right", "accuracy"])
        self.assertEqual("%.4f" % (int(rows["right"]) / int(rows["scans"])), rows["accuracy"])
        self.assertGreaterEqual(float(rows["accuracy"]), 0.95)

    def test_a_wrong_label_lowers_it(self):
        _, folder = self.reference()
        before = self.right()
        path = os.path.join(folder, "labels.csv")
        with open(path, encoding="ascii") as file:
            lines = file.read().splitlines()
        changed = ["%s,%d" % (line.split(",")[0], (int(line.split(",")[1]) + 1) % 10) for line in lines[1:]]
        with open(path, "w", encoding="ascii") as file:
            file.write("\n".join(lines[:1] + changed) + "\n")
        self.assertLess(self.right(), before / 2)

    def right(self):
        done, out = self.evaluate()
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(out, encoding="ascii") as file:
            return int(dict(line.strip().split(",") for line in file)["right"])

    def test_what_is_no_reference_is_refused(self):
        table = {
            "no header": "5,5\n",
            "a letter": "id,digit\n5,x\n",
            "a row too long": "id,digit\n5,5,5\n",
            "an id twice": "id,digit\n5,5\n5,6\n",
            "other ids": "id,digit\nnone,5\n",
            "not ASCII": "id,digit\n5,é\n",
        }
        _, folder = self.reference()
        for rule, labels in table.items():
            with self.subTest(rule):
                with open(os.path.join(folder, "labels.csv"), "w", encoding="utf-8") as file:
                    file.write(labels)
                done, out = self.evaluate()
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn("evaluate: ", done.stderr)
                self.assertNotIn("Traceback", done.stderr)
                self.assertFalse(os.path.exists(out))


if __name__ == "__main__":
    unittest.main()
