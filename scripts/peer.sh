#!/usr/bin/env bash
# Make an environment in which this project stands beside a tool whose dependencies are other ones.
# Usage: scripts/peer.sh BIN PYTHON VENV PROJECT PACKAGES...     (BIN: where uv is; PROJECT: ".[extras]")
set -euo pipefail
bin=$1 python=$2 venv=$3 project=$4
shift 4
cd "$(dirname "$0")/.."

[ -x "$venv/bin/python" ] || "$bin/uv" venv --quiet --python "$python" "$venv"

# The versions this project is tested with are wished for, not required: those that the tool forbids give way.
where=()
for place in ${PIP_FIND_LINKS:-}; do where+=(--find-links "$place"); done
wished=$(mktemp)
trap 'rm -f "$wished"' EXIT
grep -E '^(transformers|websockets|mujoco)==' requirements/constraints.txt > "$wished"
# The same torch as here where the tool allows it: no second one is fetched.
torch=$("$bin/python" -c 'import torch; print(torch.__version__.split("+")[0])')
install() {
  "$bin/uv" pip install --quiet --python "$venv/bin/python" --constraint "$wished" "${where[@]}" "$@" \
    --editable "$project" pytest pytest-timeout
}
install "$@" "torch==$torch" 2>/dev/null || install "$@"
