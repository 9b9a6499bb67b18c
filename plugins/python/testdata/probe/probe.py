"""The probe of executortest: what each word means is written there."""

import os
import subprocess
import sys
import time


def write(data):
    sys.stdout.buffer.write(data)


def wait(name):
    with open(name, "w") as beacon:
        beacon.write("ready\n")
        beacon.flush()
        while True:
            time.sleep(3600)


word, rest = sys.argv[1], sys.argv[2:]
if word == "args":
    for arg in rest:
        write(os.fsencode(arg) + b"\0")
elif word == "env":
    for name, value in os.environb.items():
        write(name + b"=" + value + b"\0")
elif word == "dir":
    write(os.fsencode(os.getcwd()))
elif word == "print":
    write(os.fsencode(rest[0]))
    sys.stderr.buffer.write(os.fsencode(rest[1]))
elif word == "exit":
    sys.exit(int(rest[0]))
elif word == "signal":
    os.kill(os.getpid(), int(rest[0]))
elif word == "fill":
    write((b"0123456789abcdef" * (int(rest[0]) // 16 + 1))[: int(rest[0])])
elif word == "stdin":
    write(str(len(sys.stdin.buffer.read())).encode())
elif word == "wait":
    wait(rest[0])
elif word == "background":
    subprocess.Popen([sys.executable, __file__, "wait", rest[0]])
else:
    sys.exit("no such word: " + word)
