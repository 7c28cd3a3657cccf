#!/usr/bin/env bash
# One rank of a training run: fairseq-train with what torchrun says about the rank. Started by torchrun.sh and
# slurm.sbatch, not by hand.
#
# fairseq reads torchrun's variables by itself, but only where it sees more than one GPU on the node: with one a node
# every rank would train alone, without a word.
set -euo pipefail
exec "${PYTHON:-python}" -m fairseq_cli.train "$@" \
    --distributed-init-method env:// --distributed-no-spawn \
    --distributed-world-size "$WORLD_SIZE" --distributed-rank "$RANK" --device-id "$LOCAL_RANK"
