"""demo.sh notices each thing that must not happen; the command is played by fake_cloister.py."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import example  # noqa: E402 - found through the line above


class Demo(example.Case):
    def demo(self, fault, work="work"):
        # The interpreter of the tests comes first in PATH: the fake names it through env.
        path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        fake = os.path.join(example.ROOT, "tests", "fake_cloister.py")
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
            steps = re.findall(r"^(\d)\. ", done.stdout, re.M)
            self.assertEqual(steps, list("1234567"))
            self.assertGreaterEqual(float(re.search("^accuracy (.*)$", done.stdout, re.M).group(1)), 0.95)
            self.assertIn("SIMULATED", done.stdout)

    def test_each_thing_that_must_not_happen_ends_it(self):
        table = {
            "file": "got something out: ./stolen",
            "beside": "got something out: ./out/model.stolen",
            "print": "got the model into what cloister printed",
            "status": "ended with status 0, expected 3",
            "record": "denied released something",
            "guess": "the accuracy is below 0.95",
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


class Record(example.Case):
    def test_what_is_no_record_is_refused(self):
        for name, content in {"empty": "", "no object": "[]", "no run": "{}", "null": '{"predicate": null}'}.items():
            with self.subTest(name):
                done = example.start("record.py", self.write("record.json", content))
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertNotIn("Traceback", done.stderr)

    def test_decisions_and_bytes_are_told(self):
        run = {
            "job": {"name": "digits", "digest": "sha256:aa"},
            "enclave": {"realm": "simulated"},
            "executor": {"name": "python", "runtime": "CPython 3.11.2"},
            "policies": [{"module": "sha256:bb"}],
            "decisions": [
                {"point": "admit", "policy": 0, "allow": True},
                {"point": "ingress", "policy": 0, "allow": False, "code": "columns"},
                {"point": "egress", "policy": None, "allow": False},
            ],
            "outcome": "succeeded",
            "released": [{"channel": "logs.stdout", "bytes": 7, "digest": "sha256:cc"}],
        }
        path = self.write("record.json", json.dumps({"predicate": run}))
        done = example.start("record.py", path, "--outcome", "succeeded")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            done.stdout.splitlines()[3:],
            [
                "admit     policy 0 allowed",
                "ingress   policy 0 denied columns",
                "egress    several policies, or a cap, denied",
                "outcome   succeeded",
                "released  logs.stdout, 7 bytes, sha256:cc",
            ],
        )
        self.assertEqual(example.start("record.py", path, "--outcome", "denied").returncode, 1)


class Jobs(unittest.TestCase):
    def lines(self, name):
        with open(os.path.join(example.ROOT, name), encoding="utf-8") as file:
            return [line.strip() for line in file if not line.startswith("#")]

    def test_the_thief_differs_from_the_job_in_what_it_runs_and_where_it_lands_alone(self):
        job, thief = self.lines("job.yaml"), self.lines("thief.yaml")
        self.assertEqual(len(job), len(thief))
        different = [re.split(":", line)[0] for line, other in zip(job, thief) if line != other]
        want = ["name", "from", "args", "parameters", "parameters", "predictions", "logs"]
        self.assertEqual(different, want)
        for line, other in zip(job, thief):
            if line.startswith(("predictions", "logs")):
                self.assertEqual(line.replace("./out/", "./stolen/"), other)

    def test_the_second_thief_differs_from_the_first_in_one_parameter(self):
        pairs = zip(self.lines("thief.yaml"), self.lines("thief-exit.yaml"))
        different = [(line, other) for line, other in pairs if line != other]
        self.assertEqual(len(different), 1)
        self.assertEqual(different[0][0].replace("quiet", "speak"), different[0][1])


if __name__ == "__main__":
    unittest.main()
