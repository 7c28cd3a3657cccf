#!/usr/bin/env bash
# Run the tests on every supported stack: bash tests/matrix.sh [--rows LIST] [--fast] [--out DIR]
#
# Each row (see --help) gets an environment of its own, made once. Finished rows are kept: a second call goes on.
# What was found is written to docs/dev/compatibility.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh
if ! python="$(_vtlm_find_python)"; then
    echo "error: Python 3.11 or 3.12 with its venv module is needed" >&2
    exit 1
fi
exec "$python" tests/matrix.py "$@"
