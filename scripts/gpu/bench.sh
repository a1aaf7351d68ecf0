#!/usr/bin/env bash
# Times sampling, update and training step on one GPU of 80 GB, in under eight minutes (docs/engines.md).
#
# Usage: scripts/gpu/bench.sh [--tiny]     --tiny: the same way on a CPU, with a small model
#
# Writes results-gpu.json and results-gpu.md: to OUT where that is set, else to benchmarks/. For the rest see check.sh.
source "$(dirname "$0")/setup.sh"
run bench.py "${OUT:-benchmarks}/results-gpu.json" "$@"
