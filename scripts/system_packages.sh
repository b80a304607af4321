#!/usr/bin/env bash
# Headless rendering needs one OpenGL library of the system: OSMesa (software) or EGL (GPU).
# Installs it where the user is root on a Debian-like machine, names it clearly elsewhere.
# Usage: scripts/system_packages.sh PYTHON
set -euo pipefail
python=$1

has_library() { "$python" -c "import ctypes.util, sys; sys.exit(not ctypes.util.find_library('$1'))"; }

# With an NVIDIA driver EGL renders on the GPU; without one only OSMesa is reliable.
if has_library OSMesa || { command -v nvidia-smi >/dev/null && has_library EGL; }; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing libosmesa6 (headless rendering of the simulated cell) ..."
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libosmesa6 >/dev/null
else
  echo "The simulated cell renders without a screen through OSMesa or EGL, and neither was found." >&2
  echo "Please install one, for example:  sudo apt-get install libosmesa6" >&2
fi
