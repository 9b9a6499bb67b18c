#!/usr/bin/env bash
# The demonstration: a vendor and a laboratory seal what is theirs, an operator runs four honest jobs
# over it, and a thief. Stops at the first thing that is not as expected.
#
#   demo.sh [WORK]    WORK is a folder to make and work in; out/demo of the checkout by default
#
# CLOISTER is the command to use (bin/cloister of the checkout by default), PYTHON the interpreter
# that trains and scores (python3 by default). With IMAGE, an enclave image, the jobs run in a virtual machine that
# boots it, by the QEMU of CLOISTER_QEMU, and not in local enclaves.
set -Eeuo pipefail

example=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$example/../.." && pwd)
work=${1:-$root/out/demo}
cloister=$(realpath -m "${CLOISTER:-$root/bin/cloister}")
python=${PYTHON:-python3}
image=${IMAGE:+$(realpath -m "$IMAGE")}
enclave=local
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
# kept FILE ARGS…: runs the command and keeps what it prints in FILE.
kept() {
  local file=$1
  shift
  printf '$ cloister %s >%s\n' "$*" "$file"
  "$cloister" "$@" >"$file" 2>last.txt </dev/null || fail "cloister $1 failed: $(cat last.txt)"
}
# nothing_left: neither in its folder nor in what was printed has the thief left anything.
nothing_left() {
  local found
  found=$(find . -path ./stolen/\* -o -name 'model.stolen*')
  [[ -z $found ]] || fail "the thief got something out: $found"
  ! grep -qF "$loot" last.txt || fail "the thief got the model into what cloister printed"
}
# as ACCOUNT: from now on this shell is that account.
as() {
  show eval "\$(cloister dev account $1)"
  eval "$("$cloister" dev account "$1" 2>/dev/null)"
}
# new_key ACCOUNT: makes a key whose data keys the operator's enclaves of this image get, and nobody else.
new_key() {
  as "$1"
  kept "policy-$1.json" key-policy print --enclave "$enclave" --account "$1" --user "$operator"
  cloister 0 dev key --policy "policy-$1.json"
  key=$(grep -o 'arn:cloister-dev:kms:[^ ]*' last.txt)
}
# seal FILE: seals what a bundle file says, under the key that was made last.
seal() {
  sed -i "s|^key: .*|key: $key|" "$1"
  cloister 0 seal "$1" -o "$2"
}
# verified RECEIPT OUTCOME: the receipt holds, and says how the run ended.
verified() {
  cloister 0 receipt verify --enclave "$enclave" "$1"
  grep -qE "^outcome +$2" last.txt || fail "the receipt $1 does not say $2"
}

[[ -x $cloister ]] || fail "there is no $cloister" "build it with 'make build', or name another in CLOISTER"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "$python is not Python 3.9 or later" "name another in PYTHON"
if [[ -d $work && -n $(ls -A "$work") && ! -e $work/$marker ]]; then
  fail "$work is not empty and was not made by this script" "name another folder, or empty it"
fi
rm -rf "$work"
mkdir -p "$work"
touch "$work/$marker"
cp -r "$example"/{app,thief,data,vendor,lab,jobs} "$example"/*.py "$work"
cd "$work"
echo "Working in $work"

say "1. Train a small model of handwritten digits, and hold scans back that it never sees."
py train.py --out .
loot=$("$python" -c 'import base64; print(base64.b64encode(open("model.json", "rb").read(90)).decode())')

# Keys, accounts and the development root of this demonstration are its own.
export XDG_STATE_HOME=$PWD/state
vendor=111122223333 lab=222233334444 operator=444455556666
"$cloister" dev kms --listen 127.0.0.1:0 >kms.txt 2>kms.log </dev/null &
kms=$!
# ended: nothing that was started here stays.
ended() {
  [[ $enclave == local ]] || "${genuine:-$cloister}" enclave stop "$enclave" >/dev/null 2>&1 || true
  [[ -z $image ]] || "${genuine:-$cloister}" enclave stop changed >/dev/null 2>&1 || true
  kill "$kms" 2>/dev/null || true
}
trap ended EXIT
for _ in {1..100}; do
  ! grep -q http kms.txt || break
  sleep 0.1
done
AWS_ENDPOINT_URL_KMS=$(grep -om1 'http://[^ ]*' kms.txt) || fail "the simulated KMS does not start: $(cat kms.log)"
export AWS_ENDPOINT_URL_KMS
if [[ -n $image ]]; then
  say "   The enclave is a virtual machine, started anew for every job whose keys are for fresh enclaves."
  cloister 0 enclave start demo --backend qemu --image "$image" --fresh
  enclave=demo
fi

say "2. The vendor makes a key that answers enclaves of this image alone, and seals application, model and scans,
   each with a policy that goes wherever it goes."
new_key $vendor
for name in app evaluate model scans notes; do seal vendor/$name.yaml digits-$name.sealed; done

say "3. A laboratory does the same with scans whose labels nobody else may see."
mkdir reference
cp scans/scans.csv labels.csv reference
new_key $lab
seal lab/reference.yaml digits-reference.sealed

say "4. The operator looks at what arrived: who sealed it, and what its policy lets out. No key is needed for that."
as $operator
cloister 0 inspect digits-model.sealed
cloister 0 plan --enclave "$enclave" jobs/2-scans.yaml

say "5. First job: the vendor brings everything."
cloister 0 run --enclave "$enclave" --receipt out/1/receipt.json jobs/1-vendor.yaml
verified out/1/receipt.json succeeded

say "6. Second job: the vendor's application and model, the operator's scans. Both have a policy, and both must allow."
cloister 0 run --enclave "$enclave" --receipt out/2/receipt.json jobs/2-scans.yaml
verified out/2/receipt.json succeeded
show head -3 out/2/predictions.csv
head -3 out/2/predictions.csv
py score.py --predictions out/2/predictions.csv --labels labels.csv --at-least 0.95

say "7. Third job: the vendor's application, the operator's model and scans."
cloister 0 run --enclave "$enclave" --receipt out/3/receipt.json jobs/3-model.yaml
verified out/3/receipt.json succeeded

say "8. Fourth job: vendor and laboratory, each with a key and a policy of its own. A score comes out, and nothing else."
cloister 0 run --enclave "$enclave" --receipt out/4/receipt.json jobs/4-lab.yaml
verified out/4/receipt.json succeeded
show cat out/4/score.csv
cat out/4/score.csv
awk -F, '$1 == "accuracy" && $2 >= 0.95 { ok = 1 } END { exit !ok }' out/4/score.csv || fail "the score is below 0.95"

say "9. Fifth job: a thief. The operator's own application hides the sealed model in the predictions, prints it, writes
   further files and tries the network. The model's policy denies; the operator sees one code of it."
cloister 3 run --enclave "$enclave" --receipt receipt-thief.json jobs/5-thief.yaml
grep -q 'error: denied at egress: columns$' last.txt || fail "the operator does not see the one code"
nothing_left
verified receipt-thief.json denied

say "10. The thief again, with a byte of the model as its exit status: the operator learns that it failed, and no number."
cloister 1 run --enclave "$enclave" --receipt receipt-thief-exit.json jobs/5-thief-exit.yaml
nothing_left
verified receipt-thief-exit.json failed

say "11. The same model under another policy: any text may leave, but no piece of the model. Honest notes do. A piece of
   the model does not, neither as it is nor in hex nor in base64."
cloister 0 run --enclave "$enclave" --receipt out/6/receipt.json jobs/6-notes.yaml
verified out/6/receipt.json succeeded
show cat out/6/notes-summary.txt
cat out/6/notes-summary.txt
for spelling in plain hex base64; do
  sed "s/spelling: summary}/spelling: $spelling}/; s/notes-summary/notes-$spelling/" jobs/6-notes.yaml >jobs/6-$spelling.yaml
  cloister 3 run --enclave "$enclave" --receipt out/6/receipt-$spelling.json jobs/6-$spelling.yaml
  grep -q 'error: denied at egress: verbatim$' last.txt || fail "the operator does not see the one code"
  [[ ! -e out/6/notes-$spelling.txt ]] || fail "the thief got a piece of the model out in $spelling"
  verified out/6/receipt-$spelling.json denied
done

say "12. A receipt with one byte changed is none."
py -c 'import sys
text = open("out/2/receipt.json").read()
at = text.index("payload\":\"") + 200
print("byte %d" % at)
open("forged.json", "w").write(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1:])'
cloister 4 receipt verify --enclave "$enclave" forged.json

say "13. The operator asks the KMS for the model's data key, outside of any enclave."
kept model-header.json inspect --json digits-model.sealed
py decrypt.py model-header.json || fail "the KMS did not refuse"

say "14. The operator runs an image with one byte changed. It measures differently, and the KMS gives it nothing."
genuine=$cloister changed=$enclave
if [[ $enclave == local ]]; then
  cp -r "$(dirname "$cloister")" changed
  printf x >>changed/enclave/cloisterd
  cloister=$PWD/changed/cloister
else
  py change.py "$image" changed.eif
  changed=changed
  cloister 0 enclave start "$changed" --backend qemu --image changed.eif --fresh
fi
cloister 4 run --enclave "$changed" --receipt receipt-changed.json jobs/2-scans.yaml
grep -q AccessDeniedException last.txt || fail "it is not the KMS that refused"
cloister=$genuine
cloister 4 receipt verify --enclave "$enclave" receipt-changed.json

say "Done. Five honest jobs returned what their owners' policies allow; the thief, with the same model, returned nothing.
The enclave and the KMS were SIMULATED: they ran on this machine, and protect nothing from its owner.
Everything is in $work"
