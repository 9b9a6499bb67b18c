"""thief/infer.py: with nothing in its way, every one of its ways out carries the model out.

The demonstration shows that nothing arrives; that means something only if the thief can steal.
"""

import base64
import csv
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import example  # noqa: E402 - found through the line above

LOOPBACK_CID = 1  # VMADDR_CID_LOCAL (vsock(7)): the test must not reach the machine's own host


class Thief(unittest.TestCase):
    """One theft, looked at from all sides."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="digits-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        # A copy, since the thief writes into its own folder.
        shutil.copytree(os.path.join(example.ROOT, "thief"), cls.path("thief"))
        os.mkdir(cls.path("work"))
        os.mkdir(cls.path("outputs"))
        with open(os.path.join(example.trained()[0], "model.json"), "rb") as file:
            cls.model = file.read()
        cls.received = bytearray()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(example.DEADLINE)
            listener = threading.Thread(target=cls.listen, args=[server])
            listener.start()
            cls.done = cls.steal("127.0.0.1:%d" % server.getsockname()[1])
            listener.join()
        with open(cls.path("outputs", "predictions.csv"), encoding="ascii", newline="") as file:
            cls.rows = list(csv.reader(file))

    @classmethod
    def path(cls, *names):
        return os.path.join(cls.folder, *names)

    @classmethod
    def listen(cls, server):
        with server.accept()[0] as connection:
            connection.settimeout(example.DEADLINE)
            for chunk in iter(lambda: connection.recv(65536), b""):
                cls.received.extend(chunk)

    @classmethod
    def steal(cls, drop):
        trained = example.trained()[0]
        command = [sys.executable, "-E", "-s", "-B", cls.path("thief", "infer.py")]
        command += ["--model", os.path.join(trained, "model.json")]
        command += ["--scans", os.path.join(trained, "scans")]
        command += ["--out", cls.path("outputs", "predictions.csv")]
        command += ["--drop", drop, "--parent", str(LOOPBACK_CID), "--exit", "speak"]
        return subprocess.run(
            command,
            cwd=cls.path("work"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=example.DEADLINE,
        )

    def test_a_further_column_of_the_output(self):
        self.assertEqual(self.rows[0], ["id", "digit", "confidence", "note"])
        self.assertEqual(base64.b64decode("".join(row[3] for row in self.rows[1:])), self.model)

    def test_further_rows_of_the_output(self):
        self.assertEqual(base64.b64decode("".join(row[1] for row in self.rows[541:])), self.model)

    def test_standard_output_and_standard_error(self):
        self.assertEqual(base64.b64decode(self.done.stdout), self.model)
        self.assertEqual(base64.b64decode(self.done.stderr), self.model)

    def test_files_that_were_not_declared(self):
        for folder in ("outputs", "work", "thief"):
            with open(self.path(folder, "model.stolen"), "rb") as file:
                self.assertEqual(base64.b64decode(file.read()), self.model, folder)

    def test_the_network(self):
        self.assertEqual(base64.b64decode(bytes(self.received)), self.model)

    def test_the_exit_status(self):
        self.assertEqual(self.done.returncode, self.model[0])

    def test_its_predictions_are_good_enough_not_to_be_noticed(self):
        with open(os.path.join(example.trained()[0], "labels.csv"), encoding="ascii", newline="") as file:
            labels = dict(list(csv.reader(file))[1:])
        right = sum(labels[row[0]] == row[1] for row in self.rows[1:541])
        self.assertGreaterEqual(right / len(labels), 0.95)


if __name__ == "__main__":
    unittest.main()
