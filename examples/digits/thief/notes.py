"""Writes notes about a model: honest ones, or the model itself in one spelling or another.

    notes.py --model PATH --as summary|plain|hex|base64 --out PATH

PATH of the model is a file, or a folder that holds model.json. Standard library only.
"""

import argparse
import base64
import os
import sys

PIECE = 400  # bytes of the model: a thief who does not want to be noticed


def summary(model):
    return b"the model has %d bytes\n" % len(model)


def plain(model):
    return b"nothing to see here: " + model[1000 : 1000 + PIECE] + b"\n"


def in_hex(model):
    digits = model[1000 : 1000 + PIECE].hex()
    return "\n".join(digits[at : at + 60] for at in range(0, len(digits), 60)).encode()


def in_base64(model):
    return base64.encodebytes(b"x" + model[1000 : 1000 + PIECE])


SPELLINGS = {"summary": summary, "plain": plain, "hex": in_hex, "base64": in_base64}


def main(args):
    parser = argparse.ArgumentParser(prog="notes.py", allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="PATH")
    parser.add_argument("--as", dest="spelling", required=True, choices=sorted(SPELLINGS))
    parser.add_argument("--out", required=True, metavar="PATH")
    options = parser.parse_args(args)
    path = options.model
    if os.path.isdir(path):
        path = os.path.join(path, "model.json")
    with open(path, "rb") as file:
        model = file.read()
    with open(options.out, "wb") as file:
        file.write(SPELLINGS[options.spelling](model))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
