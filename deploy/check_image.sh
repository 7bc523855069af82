#!/usr/bin/env bash
# Does what the Dockerfile does, step by step, in a clean folder, where there is no container engine; then runs what it runs: as another
# user than root (where we are root), writing nowhere but in its state folder, asked by its own health check.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
serving=
trap '[ -z "$serving" ] || kill "$serving" 2>/dev/null || true; rm -rf "$folder"' EXIT
chmod 755 "$folder"
mkdir "$folder/src" "$folder/state"
grep -oP '^!\K.*' .dockerignore | while read -r source; do cp -r --parents "$source" "$folder/src/"; done
extras=$(grep -oP "pip install --no-cache-dir '\.\K[^']+" deploy/Dockerfile)
"${PYTHON:-python3}" -m venv "$folder/sluice"
(cd "$folder/src" && "$folder/sluice/bin/pip" install --quiet --disable-pip-version-check ".$extras")
compiler=$(grep -oP "pip install --no-cache-dir --target /opt/compiler '\K[^']+" deploy/Dockerfile)
if command -v cc >/dev/null; then
  "$folder/sluice/bin/pip" install --quiet --disable-pip-version-check --target "$folder/compiler" "$compiler"
  # The compiler's optimisation takes three minutes, and `make test-compiled` has tested what it makes.
  (cd "$folder/src" && MYPYC_OPT_LEVEL=${MYPYC_OPT_LEVEL:-0} PYTHONPATH="$folder/compiler" "$folder/sluice/bin/python" deploy/compile.py --installed)
  rm -rf "$folder/compiler"
  "$folder/sluice/bin/python" -P -c 'import gateway.pipeline as p; assert p.__file__.endswith(".so"), p.__file__'
fi
rm -rf "$folder/src"
export SLUICE_ADMIN_KEY=$(printf 'a%.0s' {1..32}) SLUICE_PEPPER=$(printf 'p%.0s' {1..32})
export REDIS_URL=redis://127.0.0.1:1/0 DATABASE_URL=sqlite:///$folder/state/sluice.db OPENAI_API_KEY=sk-x
export $(grep -oP '^ENV \K.*' deploy/Dockerfile | tr ' ' '\n' | grep -v ^PATH=)
"$folder/sluice/bin/sluice" check --quiet deploy/sluice.yaml

read -r port admin < <("$folder/sluice/bin/python" -c '
import socket
made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in made))')
cat > "$folder/sluice.yaml" <<END
server: {host: 0.0.0.0, port: $port, drain_delay: 0, drain: 5}
admin: {port: $admin}
providers: {openai: {adapter: openai, api_key: "\${OPENAI_API_KEY}"}}
models: {fast: {deployments: [{provider: openai, model: gpt-5-mini}]}}
END
as=()
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null && setpriv --reuid 10001 --clear-groups test -x "$folder/sluice/bin/python"; then
  chown 10001 "$folder/state"
  as=(setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all)
fi
touch "$folder/began"
# The default database and journal are relative: WORKDIR is the state folder.
(cd "$folder/state" && HOME="$folder/state" exec "${as[@]}" "$folder/sluice/bin/sluice" serve "$folder/sluice.yaml" 2>"$folder/log") &
serving=$!
healthy=$(grep -oP '^HEALTHCHECK .*CMD \K.*' deploy/Dockerfile | "$folder/sluice/bin/python" -c 'import json, sys; print(json.load(sys.stdin)[2])')
for _ in $(seq 100); do
  "$folder/sluice/bin/python" -c "${healthy//8080/$port}" 2>/dev/null && break
  kill -0 "$serving" || { cat "$folder/log"; exit 1; }
  sleep 0.2
done
"$folder/sluice/bin/python" -c "${healthy//8080/$port}"
kill -TERM "$serving"
wait "$serving"
serving=
written=$(find "$folder" -newer "$folder/began" -type f ! -path "$folder/state/*" ! -name log)
[ -z "$written" ] || { echo "written outside of the state folder: $written"; exit 1; }
[ -f "$folder/state/sluice.db" ] && [ -d "$folder/state/sluice-journal" ]
echo "The image's steps work; what they install accepts deploy/sluice.yaml, serves ${as:+as user 10001 }and writes into its state folder alone."
