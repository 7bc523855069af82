#!/usr/bin/env bash
# Does what the Dockerfile does, step by step, in a clean folder, where there is no container engine.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
grep -oP '^!\K.*' .dockerignore | while read -r source; do cp -r "$source" "$folder/src/"; done
extras=$(grep -oP "pip install --no-cache-dir '\.\K[^']+" deploy/Dockerfile)
"${PYTHON:-python3}" -m venv "$folder/sluice"
(cd "$folder/src" && "$folder/sluice/bin/pip" install --quiet --disable-pip-version-check ".$extras")
rm -rf "$folder/src"
cd "$folder"
export SLUICE_ADMIN_KEY=$(printf 'a%.0s' {1..32}) SLUICE_PEPPER=$(printf 'p%.0s' {1..32})
export REDIS_URL=redis://127.0.0.1:1/0 DATABASE_URL=sqlite:///$folder/sluice.db
PYTHONSAFEPATH=1 "$folder/sluice/bin/sluice" check --quiet "$OLDPWD/deploy/sluice.yaml"
echo "The image's steps work, and what they install accepts deploy/sluice.yaml."
