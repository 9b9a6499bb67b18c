#!/usr/bin/env python3
"""Plays the cloister command for the tests of demo.sh. FAKE says what goes wrong.

    (empty)  nothing: the honest job is released, the thief is denied
    file     the thief's output is written in spite of the denial
    beside   a file that was not declared is written
    print    the model is in what the command prints
    status   the thief's run ends with status 0
    record   the record of the thief's run says that something was released
    guess    the honest job's predictions are of no use
"""

import json
import os
import subprocess
import sys

EXAMPLE = os.getcwd()


def run(folder, out):
    """Starts the application of the job as an executor would; what it prints is returned."""
    os.makedirs(out, exist_ok=True)
    command = [sys.executable, "-E", "-s", "-B", os.path.join(EXAMPLE, folder, "infer.py")]
    command += ["--model", "model.json", "--scans", "scans", "--out", os.path.join(out, "predictions.csv")]
    return subprocess.run(command, check=True, capture_output=True).stdout


def record(path, outcome, released):
    run = {
        "job": {"name": "digits", "digest": "sha256:00"},
        "enclave": {"realm": "fake"},
        "executor": {"name": "python", "runtime": "fake"},
        "policies": [{"module": "sha256:00"}],
        "decisions": [{"point": "egress", "policy": 0, "allow": outcome == "succeeded"}],
        "outcome": outcome,
        "released": released,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"predicate": run}, file)


def main(args, fault):
    if args[0] != "run":
        return 0
    target, job = args[args.index("--record") + 1], args[-1]
    artifact = {"channel": "outputs.predictions", "bytes": 1, "digest": "sha256:00"}
    if job == "job.yaml":
        printed = run("app", "out")
        with open("out/stdout.log", "wb") as file:
            file.write(printed)
        if fault == "guess":
            with open("out/predictions.csv", encoding="ascii") as file:
                head, *rows = file.read().splitlines()
            with open("out/predictions.csv", "w", encoding="ascii") as file:
                file.writelines([head + "\n"] + [row.split(",")[0] + ",3,1.00\n" for row in rows])
        record(target, "succeeded", [artifact])
        return 0
    if fault == "file":
        os.mkdir("stolen")
        open("stolen/predictions.csv", "w").close()
    if fault == "beside":
        open("out/model.stolen", "w").close()
    if fault == "print":
        import base64

        with open("model.json", "rb") as file:
            print("denied:", base64.b64encode(file.read()).decode())
    record(target, "denied", [artifact] if fault == "record" else [])
    return 0 if fault == "status" else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("FAKE", "")))
