#!/usr/bin/env bash
# IB-TPO, TreeRL and GRPO on number walks in turns, at equal sampled tokens and optimiser steps; half an hour of one CPU
# core. The rate and the warm-up are those of the final test (../final), which chose them on walks in one turn.
set -euo pipefail
cd "$(dirname "$0")"
ibtpo compare training nano-walk-turns --output run $([[ -f run/plan.json ]] && echo --resume || true) \
  --arms grpo ibtpo treerl,branching=entropy --seeds {0..4} --tokens 100000 --learning-rates 3e-4 --evaluations 2 --jobs "${JOBS:-1}" \
  --set eval_limit=300 save_trees_every=0 lr_scheduler_type=constant_with_warmup warmup_steps=10
cp run/{summary.json,table.md,curves.csv} run/*.svg .
