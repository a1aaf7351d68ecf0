#!/usr/bin/env bash
# The seven methods on the embedded task, five seeds each, 200k generated tokens a run, on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")"
ibtpo compare training --output run --tokens 200000 --learning-rates 1e-4 2e-4 4e-4 --pilot-tokens 80000 \
  --pilot-seeds 1000 --validation 200 --seeds 0 1 2 3 4 --evaluations 2 --set beta=0.001 eval_limit=300 --jobs 2
cp run/{summary.json,table.md,curves.csv} run/*.svg .
