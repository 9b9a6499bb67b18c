#!/usr/bin/env bash
# Gets digits.csv.gz again from PyPI and verifies it. Installs nothing; see SOURCE.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

version=1.5.2
wheel_sha256=f8b0ccd4a902836493e026c03256e8b206656f91fbcc4fde28c57a5b752561f1
data_sha256=09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22
python=${PYTHON:-python3}

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
echo "scikit-learn==$version --hash=sha256:$wheel_sha256" >"$temp/requirements.txt"
# One named wheel, whatever machine this is: only its data is wanted.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
  --only-binary :all: --platform manylinux2014_x86_64 --python-version 3.11 \
  --dest "$temp" --requirement "$temp/requirements.txt"
"$python" -m zipfile -e "$temp"/scikit_learn-"$version"-*.whl "$temp/wheel"
file=$temp/wheel/sklearn/datasets/data/digits.csv.gz
echo "$data_sha256  $file" | sha256sum --check --quiet -
install -m 644 "$file" digits.csv.gz
echo "digits.csv.gz is as SOURCE.md says"
