#!/usr/bin/env bash
# The tests of the operator's page drive a real browser, Chromium, and look at Chinese text in it.
# Installs what is missing: from the system's packages where the user is root on a Debian-like machine, else Playwright's
# own Chromium, into the user's cache. Where neither works those tests are skipped, and say so.
# Usage: scripts/browser.sh PYTHON
set -euo pipefail
python=$1

has_chromium() {
  for name in chromium google-chrome; do
    # Some systems have a command of that name that only says where to find one.
    if command -v "$name" >/dev/null && "$name" --version >/dev/null 2>&1; then return 0; fi
  done
  "$python" -c "
import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    sys.exit(not os.path.exists(playwright.chromium.executable_path))" 2>/dev/null
}
has_chinese() { command -v fc-list >/dev/null && [ -n "$(fc-list :lang=zh)" ]; }
# A fresh machine may still be busy with updates of its own.
install() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq "$@" >/dev/null; }

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { has_chromium && has_chinese; }; then
  echo "Installing Chromium and a Chinese font (tests of the operator's page) ..."
  apt-get update -qq || true
  has_chinese || install fontconfig fonts-wqy-microhei || true
  has_chromium || install chromium || true
  has_chromium || "$python" -m playwright install --with-deps chromium || true
fi
if ! has_chromium; then "$python" -m playwright install chromium || true; fi
has_chromium || echo "No Chromium: the tests of the operator's page in a browser will be skipped. Try: sudo apt-get install chromium" >&2
has_chinese || echo "No Chinese font: the page's Chinese will be boxes here. Try: sudo apt-get install fonts-wqy-microhei" >&2
