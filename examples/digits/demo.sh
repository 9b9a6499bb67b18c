#!/usr/bin/env bash
# The demonstration: an honest job, then a thief. Stops at the first thing that is not as expected.
#
#   demo.sh [WORK]    WORK is a folder to make and work in; out/demo of the checkout by default
#
# CLOISTER is the command to use (bin/cloister of the checkout by default), PYTHON the interpreter
# that trains and scores (python3 by default).
set -Eeuo pipefail

example=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$example/../.." && pwd)
work=${1:-$root/out/demo}
cloister=$(realpath -m "${CLOISTER:-$root/bin/cloister}")
python=${PYTHON:-python3}
marker=.cloister-demo

say() { printf '\n%s\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
fail() {
  printf '\ndemo: error: %s\n' "$1" >&2
  [[ -z ${2:-} ]] || printf 'demo: hint: %s\n' "$2" >&2
  exit 1
}
trap 'fail "line $LINENO: this command was not to fail: $BASH_COMMAND"' ERR

py() {
  show python3 "$@"
  "$python" -E -s -B "$@"
}
# cloister STATUS ARGS…: runs the command, keeps what it prints in last.txt, and expects STATUS.
cloister() {
  local want=$1 got=0
  shift
  show cloister "$@"
  "$cloister" "$@" >last.txt 2>&1 </dev/null || got=$?
  cat last.txt
  [[ $got == "$want" ]] || fail "cloister $1 ended with status $got, expected $want"
}
# nothing_left: neither in its folder nor in what was printed has the thief left anything.
nothing_left() {
  local found
  found=$(find . -path ./stolen/\* -o -name 'model.stolen*')
  [[ -z $found ]] || fail "the thief got something out: $found"
  ! grep -qF "$loot" last.txt || fail "the thief got the model into what cloister printed"
}

[[ -x $cloister ]] || fail "there is no $cloister" "build it with 'make build', or name another in CLOISTER"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "$python is not Python 3.9 or later" "name another in PYTHON"
if [[ -d $work && -n $(ls -A "$work") && ! -e $work/$marker ]]; then
  fail "$work is not empty and was not made by this script" "name another folder, or empty it"
fi
rm -rf "$work"
mkdir -p "$work"
touch "$work/$marker"
cp -r "$example"/{app,thief,data} "$example"/*.py "$example"/*.yaml "$work"
cd "$work"
echo "Working in $work"

say "1. Train a small model of handwritten digits, and hold scans back that it never sees."
py train.py --out .
loot=$("$python" -c 'import base64; print(base64.b64encode(open("model.json", "rb").read(90)).decode())')

say "2. Ask what the job would do: the policies say which channels they may ever release. Nothing runs."
cloister 0 plan --enclave local job.yaml

say "3. Run it: Python inside the walls, and both policies judge what comes out before it leaves."
cloister 0 run --enclave local --record out/record.json job.yaml
show head -3 out/predictions.csv
head -3 out/predictions.csv
show cat out/stdout.log
cat out/stdout.log

say "4. Score the predictions against labels that never went into the enclave."
py score.py --predictions out/predictions.csv --labels labels.csv --at-least 0.95

say "5. Now a thief: the same job, but its application hides the model in the predictions, prints it, writes
   further files and tries the network. The policies deny, so nothing is written at all."
cloister 3 run --enclave local --record record-thief.json thief.yaml
nothing_left

say "6. The thief again, now with a byte of the model as its exit status. The operator learns that the job
   did not succeed, never the number, and again nothing is written."
cloister 3 run --enclave local --record record-thief-exit.json thief-exit.yaml
nothing_left

say "7. What was decided, and how many bytes left by which channel, is in the record of each run."
py record.py out/record.json --outcome succeeded
py record.py record-thief.json --outcome denied

say "Done. The honest job returned $(wc -l <out/predictions.csv) lines of predictions; the thief, with the same inputs, returned nothing.
The enclave was SIMULATED: a process on this machine, which protects nothing from its owner.
Everything is in $work"
