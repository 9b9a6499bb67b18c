"""What the tests of this example share: its programs, started as an executor starts them."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEADLINE = 60  # seconds for one program


def start(program, *args):
    """Runs a program of the example to its end."""
    command = [sys.executable, "-E", "-s", "-B", os.path.join(ROOT, program), *map(str, args)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )


@functools.lru_cache(maxsize=None)
def trained():
    """(folder, what train.py printed): a model trained once for all tests, not to be written to."""
    folder = tempfile.mkdtemp(prefix="digits-")
    atexit.register(shutil.rmtree, folder)
    done = start("train.py", "--out", folder)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return folder, done.stdout


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="digits-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8", newline="") as file:
            file.write(text)
        return self.path(name)

    def read(self, *names):
        with open(self.path(*names), "rb") as file:
            return file.read()
