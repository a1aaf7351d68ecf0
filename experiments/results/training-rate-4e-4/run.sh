#!/usr/bin/env bash
# IB-TPO and GRPO on the embedded task at one learning rate, 4e-4, the rate that TreeRL and TreePO were given in
# training-methods. Chosen after that result was known.
set -euo pipefail
cd "$(dirname "$0")"
ibtpo compare training --output run --arms ibtpo grpo --tokens 200000 --learning-rates 4e-4 --validation 200 \
  --seeds 0 1 2 3 4 --evaluations 2 --set beta=0.001 eval_limit=300 --jobs 2
cp run/{summary.json,table.md,curves.csv} run/*.svg .
