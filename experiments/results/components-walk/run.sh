#!/usr/bin/env bash
# The parts of IB-TPO one by one on the embedded task, three seeds each, 100k generated tokens a run, on two CPU cores.
# One learning rate for all arms: this asks what a part does, not how well a method can be tuned.
set -euo pipefail
cd "$(dirname "$0")"
ibtpo compare training --output run --arms components --tokens 100000 --learning-rates 3e-4 --validation 50 \
  --seeds 0 1 2 --evaluations 1 --set beta=0.001 eval_limit=300 --jobs 2
cp run/{summary.json,table.md,curves.csv} run/*.svg .
