#!/usr/bin/env bash
# Make a virtual environment with the package and the named extras, or add the extras to one.
# Usage: scripts/setup.sh PYTHON VENV EXTRAS
set -euo pipefail
python=$1 venv=$2 extras=$3
cd "$(dirname "$0")/.."

"$python" - <<'PY' || { echo "Python 3.10 to 3.13 is needed; choose one with: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
import sys
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PY

echo "installing into $venv: PyTorch and what goes with it, up to some 3 GB, a minute or more" >&2
quiet=(--quiet)  # in logs; whoever waits at a terminal sees how far it is
if [ -t 2 ]; then quiet=(); fi

# also one that was left half made, such as without python3-venv
"$venv/bin/python" -m pip --version > /dev/null 2>&1 || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.8"

# uv does not read pip's PIP_FIND_LINKS: hand it on. Without it, let uv choose the torch build that
# fits the machine (CUDA when a driver is there, CPU otherwise).
# Compiled at once: where Python may not write bytecode, each process would compile torch anew.
where=()
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  for place in $PIP_FIND_LINKS; do where+=(--find-links "$place"); done
else
  where+=(--torch-backend auto)
fi
"$venv/bin/uv" pip install ${quiet[@]+"${quiet[@]}"} --compile-bytecode --python "$venv/bin/python" \
  --constraint requirements/constraints.txt "${where[@]}" --editable ".[$extras]"

bash scripts/system_packages.sh "$venv/bin/python"
