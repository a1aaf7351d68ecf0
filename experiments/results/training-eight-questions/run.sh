#!/usr/bin/env bash
# IB-TPO, GRPO, TreeRL and TreePO with 8 questions a step in place of 16: twice the steps for the same tokens.
set -euo pipefail
cd "$(dirname "$0")"
ibtpo compare training --output run --arms grpo ibtpo treerl treepo --tokens 100000 --learning-rates 2e-4 3e-4 \
  --pilot-tokens 60000 --pilot-seeds 1000 1001 --validation 200 --seeds 0 1 2 3 4 --evaluations 2 \
  --set beta=0.001 eval_limit=300 prompts_per_step=8 --jobs 2
cp run/{summary.json,table.md,curves.csv} run/*.svg .
