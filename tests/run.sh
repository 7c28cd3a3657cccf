#!/usr/bin/env bash
# Run the tests: bash tests/run.sh [--fast] [--cpu] [pytest arguments]
#
#   --fast   unit tests only, without those that are slow or need real data
#   --cpu    if an environment must be made, take PyTorch's small CPU build
#
# Uses the active virtual environment if it has all that is needed, else .venv in the checkout, made if need be.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh

cpu=()
tests=()
while [ $# -gt 0 ]; do
    case "$1" in
        --fast)
            tests=(tests/unit -m "not slow")
            unset VTLM_TEST_DATA
            ;;
        --cpu) cpu=(--cpu) ;;
        -h | --help)
            sed -n '2,/^set/s/^# \{0,1\}//p' tests/run.sh
            exit 0
            ;;
        *) break ;;
    esac
    shift
done

vtlm_activate_venv ${cpu[@]+"${cpu[@]}"} test,plots,extract
# Two processes, a thread each: small tensors do not gain from more, and fairseq's start-up takes most of the time.
# In the order of the files, so that the long ones of integration do not come last.
export OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # else each of many processes would compile the package, and pytest the tests, anew
exec "$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${tests[@]+"${tests[@]}"} "$@"
