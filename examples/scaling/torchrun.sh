#!/usr/bin/env bash
# Train on N GPUs of this node:
#
#   bash examples/scaling/torchrun.sh N DATA --user-dir DIR --task visual_translation_lm ... (as for fairseq-train)
#
# On the CPU, for a trial: add --cpu --distributed-backend gloo --ddp-backend legacy_ddp.
set -euo pipefail
if [ $# -lt 2 ] || ! [ "$1" -ge 1 ] 2>/dev/null; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
ranks="$1"
shift
# torchrun gives each rank one thread; fairseq's own work is done in loader workers and on the GPU
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node "$ranks" --no-python \
    bash "$(dirname "${BASH_SOURCE[0]}")/rank.sh" "$@"
