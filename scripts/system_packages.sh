#!/usr/bin/env bash
# Libraries of the system that pip cannot bring. Installs what is missing where the user is root on a Debian-like
# machine, names it clearly elsewhere.
# Usage: scripts/system_packages.sh PYTHON            headless rendering: OSMesa (software) or EGL (GPU)
#        scripts/system_packages.sh PYTHON cameras    GigE and USB3 Vision cameras: aravis, and 'ip' for its fake ones
set -euo pipefail
python=$1 what=${2:-rendering}

has_library() { "$python" -c "import ctypes.util, sys; sys.exit(not ctypes.util.find_library('$1'))"; }

if [ "$what" = cameras ]; then
  if has_library aravis-0.8 && command -v ip >/dev/null; then exit 0; fi
  packages="libaravis-0.8-0 iproute2" purpose="GigE and USB3 Vision cameras"
  otherwise="Cameras on GigE Vision and USB3 Vision need the library aravis 0.8, and it was not found."
else
  # With an NVIDIA driver EGL renders on the GPU; without one only OSMesa is reliable.
  if has_library OSMesa || { command -v nvidia-smi >/dev/null && has_library EGL; }; then exit 0; fi
  packages="libosmesa6" purpose="headless rendering of the simulated cell"
  otherwise="The simulated cell renders without a screen through OSMesa or EGL, and neither was found."
fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing $packages ($purpose) ..."
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
    install -y -qq --no-install-recommends $packages >/dev/null
else
  echo "$otherwise" >&2
  echo "Please install one, for example:  sudo apt-get install $packages" >&2
fi
