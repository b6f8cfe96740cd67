#!/usr/bin/env bash
# Makes docs/img/comparison.png: the top of the report of the comparison that `make demo` runs.
# Needs chromium and a finished `make demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking \
  --user-data-dir="$profile" --virtual-time-budget=10000 --window-size=1024,1000 \
  --screenshot="$PWD/docs/img/comparison.png" "file://$PWD/runs/demo-compare/report.html" 2>/dev/null
