"""Prints the record of a run so that a person can read it.

    record.py FILE [--outcome OUTCOME]

Status 0: printed. Status 1: the run ended otherwise than OUTCOME, or one that was denied
released something. Status 2: the file is no record. Standard library only.
"""

import argparse
import json
import sys


def lines(run):
    """The predicate of a record, in lines."""
    enclave, executor = run["enclave"], run["executor"]
    yield "job       %s, %s" % (run["job"]["name"], run["job"]["digest"])
    yield "ran in    realm %s, executor %s, %s" % (enclave["realm"], executor["name"], executor["runtime"])
    for number, policy in enumerate(run["policies"]):
        yield "policy %d  module %s" % (number, policy["module"])
    for decision in run["decisions"]:
        number = decision.get("policy")
        who = "several policies, or a cap," if number is None else "policy %d" % number
        said = "allowed" if decision["allow"] else " ".join(["denied", decision.get("code", "")]).strip()
        yield "%-9s %s %s" % (decision["point"], who, said)
    yield "outcome   %s" % run["outcome"]
    for artifact in run["released"]:
        yield "released  %s, %d bytes, %s" % (artifact["channel"], artifact["bytes"], artifact["digest"])
    if not run["released"]:
        yield "released  nothing"


def main(args):
    parser = argparse.ArgumentParser(prog="record.py", allow_abbrev=False)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--outcome", metavar="OUTCOME")
    options = parser.parse_args(args)
    try:
        with open(options.file, encoding="utf-8") as file:
            run = json.load(file)["predicate"]
        run["released"] = run["released"] or []
        print("\n".join(lines(run)))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        print("record: %s: %r" % (options.file, problem), file=sys.stderr)
        return 2
    if options.outcome and run["outcome"] != options.outcome:
        print("record: the outcome is not %s" % options.outcome, file=sys.stderr)
        return 1
    if run["outcome"] == "denied" and run["released"]:
        print("record: a run that was denied released something", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
