#!/usr/bin/env bash
# How far the embedded task can be learned, and what becomes of the groups: three million tokens, a rate that falls to 0.
# About half an hour of one core for each arm.
set -euo pipefail
cd "$(dirname "$0")"
[[ ! -e kept.tar.xz ]] || tar --skip-old-files -xJf kept.tar.xz
ibtpo compare training --output run $([[ -f run/plan.json ]] && echo --resume || true) --tokens 3000000 --learning-rates 3e-4 \
  --seeds 0 --evaluations 6 --arms grpo ibtpo \
  --set eval_limit=300 save_trees_every=0 lr_scheduler_type=linear
cp run/{summary.json,table.md,curves.csv} run/{accuracy-tokens,eff-rate,entropy,cov-eta}.svg .
python ../final/pairs.py run .
tar --sort=name --mtime=@0 --exclude='*.html' --exclude=trees --exclude=report_data --exclude=checkpoints --exclude=.lock \
  -cJf kept.tar.xz run/{plan.json,arms,data,sizes,runs}
