#!/usr/bin/env python3
"""Plays the cloister command for the tests of demo.sh. FAKE says what goes wrong.

    (empty)  nothing: the honest jobs are released, the thief is denied, keys are refused
    file     the thief's output is written in spite of the denial
    beside   a file that was not declared is written
    print    the model is in what the command prints
    status   the thief's run ends with status 0
    code     the operator is told nothing of why the thief was denied
    outcome  the receipt of the thief's run says that it succeeded
    spelling the notes leave with a piece of the model in them
    piece    they are written in spite of the denial
    guess    the predictions are of no use
    score    the score is low
    forged   a receipt that was changed is verified
    decrypt  the KMS gives a data key to whoever asks
    changed  a changed image is given the key
    silent   the KMS does not start
"""

import http.server
import json
import os
import subprocess
import sys

EXAMPLE = os.getcwd()
KEY = "arn:cloister-dev:kms:local:%s:key/00000000-0000-4000-8000-000000000000"


def start(folder, program, out, *args):
    """Starts an application as an executor would."""
    os.makedirs(os.path.dirname(out), exist_ok=True)
    command = [sys.executable, "-E", "-s", "-B", os.path.join(EXAMPLE, folder, program), "--model", "model.json"]
    subprocess.run(command + [*args, "--out", out], check=True, capture_output=True)


def guess(path):
    with open(path, encoding="ascii") as file:
        head, *rows = file.read().splitlines()
    with open(path, "w", encoding="ascii") as file:
        file.writelines([head + "\n"] + [row.split(",")[0] + ",3,1.00\n" for row in rows])


def run(receipt, job, fault):
    changed = os.path.basename(os.path.dirname(sys.argv[0])) == "changed"
    if changed and fault != "changed":
        write_receipt(receipt, "key-refused", changed)
        print("cloister: error: application: the KMS refuses: AccessDeniedException")
        return 4
    if "thief-exit" in job:
        write_receipt(receipt, "failed", changed)
        return 1
    if os.path.basename(job).startswith("6-"):
        return notes(receipt, job, fault)
    if "thief" in job:
        write_receipt(receipt, "succeeded" if fault == "outcome" else "denied", changed)
        return thief(fault)
    number = os.path.basename(job)[0]
    if number == "4":
        start("app", "evaluate.py", "out/4/score.csv", "--reference", "reference")
        if fault == "score":
            with open("out/4/score.csv", "w", encoding="ascii") as file:
                file.write("metric,value\naccuracy,0.5\n")
    else:
        start("app", "infer.py", "out/%s/predictions.csv" % number, "--scans", "scans")
        if fault == "guess":
            guess("out/%s/predictions.csv" % number)
    write_receipt(receipt, "succeeded", changed)
    return 0


def notes(receipt, job, fault):
    with open(job, encoding="utf-8") as file:
        spelling = file.read().split("parameters: {spelling: ")[-1].split("}")[0]
    out = "out/6/notes-%s.txt" % spelling
    if spelling == "summary" or (fault == "piece" and spelling == "hex"):
        start("thief", "notes.py", out, "--as", spelling)
    honest = spelling == "summary" or fault == "spelling"
    write_receipt(receipt, "succeeded" if honest else "denied", False)
    if not honest:
        print("cloister: error: denied at egress: verbatim")
    return 0 if honest else 3


def thief(fault):
    if fault == "file":
        os.mkdir("stolen")
        open("stolen/predictions.csv", "w").close()
    if fault == "beside":
        open("out/model.stolen", "w").close()
    if fault == "print":
        import base64

        with open("model.json", "rb") as file:
            print("denied:", base64.b64encode(file.read()).decode())
    print("cloister: error: denied at egress" + ("" if fault == "code" else ": columns"))
    return 0 if fault == "status" else 3


def write_receipt(path, outcome, changed):
    with open(path, "w", encoding="ascii") as file:
        json.dump({"payloadType": "fake", "payload": "x" * 400, "outcome": outcome, "changed": changed}, file, separators=(",", ":"))


def verify(path, fault):
    with open(path, encoding="ascii") as file:
        receipt = json.load(file)
    if (receipt["payload"] != "x" * 400 or receipt["changed"]) and fault != "forged":
        return 4
    print("outcome   " + receipt["outcome"])
    return 0


class KMS(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        given = os.environ.get("FAKE", "") == "decrypt"
        body = json.dumps({"Plaintext": "AAAA"} if given else {"__type": "AccessDeniedException"}).encode()
        self.send_response(200 if given else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve():
    server = http.server.HTTPServer(("127.0.0.1", 0), KMS)
    print("simulated KMS at http://127.0.0.1:%d" % server.server_port, flush=True)
    server.serve_forever()


def main(args, fault):
    command = " ".join(args[:2])
    if command == "dev kms" and fault == "silent":
        return 5
    if command == "dev kms":
        serve()
    elif command == "dev account":
        print("export AWS_ACCESS_KEY_ID=AKID%s AWS_SECRET_ACCESS_KEY=secret" % args[2])
    elif command == "dev key":
        print(KEY % args[-1][-17:-5])
    elif command == "receipt verify":
        return verify(args[-1], fault)
    elif args[:2] == ["inspect", "--json"]:
        print(json.dumps({"header": {"key": KEY % "1", "wrapped_key": "AAAA", "encryption_context": {}}}))
    elif args[0] == "run":
        return run(args[args.index("--receipt") + 1], args[-1], fault)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("FAKE", "")))
