"""demo.sh notices each thing that must not happen; the command is played by fake_cloister.py."""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import example  # noqa: E402 - found through the line above


class Demo(example.Case):
    def demo(self, fault, work="work"):
        # The interpreter of the tests comes first in PATH: the fake names it through env.
        path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        # The demonstration copies the folder of the command, so it has one of its own with an image.
        folder = self.path("bin-" + work)
        if not os.path.isdir(folder):
            os.makedirs(os.path.join(folder, "enclave"))
            shutil.copy(os.path.join(example.ROOT, "tests", "fake_cloister.py"), os.path.join(folder, "cloister"))
        fake = os.path.join(folder, "cloister")
        env = dict(os.environ, CLOISTER=fake, PYTHON=sys.executable, FAKE=fault, PATH=path)
        return subprocess.run(
            ["bash", os.path.join(example.ROOT, "demo.sh"), self.path(work)],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * example.DEADLINE,
        )

    def test_the_whole_way(self):
        for _ in range(2):  # a second run replaces what the first one made
            done = self.demo("")
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
            steps = re.findall(r"^(\d+)\. ", done.stdout, re.M)
            self.assertEqual(steps, [str(step) for step in range(1, 15)])
            self.assertGreaterEqual(float(re.search("^accuracy (.*)$", done.stdout, re.M).group(1)), 0.95)
            self.assertIn("SIMULATED", done.stdout)

    def test_each_thing_that_must_not_happen_ends_it(self):
        table = {
            "file": "got something out: ./stolen",
            "beside": "got something out: ./out/model.stolen",
            "print": "got the model into what cloister printed",
            "status": "ended with status 0, expected 3",
            "code": "does not see the one code",
            "outcome": "does not say denied",
            "spelling": "ended with status 0, expected 3",
            "piece": "got a piece of the model out in hex",
            "guess": "the accuracy is below 0.95",
            "score": "the score is below 0.95",
            "forged": "ended with status 0, expected 4",
            "decrypt": "the KMS did not refuse",
            "changed": "ended with status 0, expected 4",
            "silent": "the simulated KMS does not start",
        }
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(lambda fault: self.demo(fault, work=fault), table))
        for (fault, message), done in zip(table.items(), ended):
            with self.subTest(fault):
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(message, done.stderr)
                self.assertNotIn("Done.", done.stdout)

    def test_a_folder_of_somebody_else_is_left_alone(self):
        os.mkdir(self.path("mine"))
        self.write("mine/thesis.txt", "years of work")
        done = self.demo("", work="mine")
        self.assertEqual(done.returncode, 1)
        self.assertIn("was not made by this script", done.stderr)
        self.assertEqual(self.read("mine", "thesis.txt"), b"years of work")


class Jobs(unittest.TestCase):
    def lines(self, name):
        with open(os.path.join(example.ROOT, name), encoding="utf-8") as file:
            return [line.strip() for line in file if not line.startswith("#")]

    def test_the_thief_asks_for_what_an_honest_job_asks_for(self):
        honest, thief = self.lines("jobs/2-scans.yaml"), self.lines("jobs/5-thief.yaml")
        for line in ("model: {from: ../digits-model.sealed}", "scans: {from: ../scans}"):
            self.assertIn(line, honest)
            self.assertIn(line, thief)

    def test_the_second_thief_differs_from_the_first_in_one_parameter(self):
        pairs = zip(self.lines("jobs/5-thief.yaml"), self.lines("jobs/5-thief-exit.yaml"))
        different = [(line, other) for line, other in pairs if line != other]
        self.assertEqual(len(different), 1)
        self.assertEqual(different[0][0].replace("quiet", "speak"), different[0][1])


if __name__ == "__main__":
    unittest.main()
