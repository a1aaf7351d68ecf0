#!/usr/bin/env bash
# Branching rules on 1000 held-out problems of the embedded task at the paper's operating point, the untrained embedded
# model. The arms were chosen before, on problems that are alike (../branching-walk).
set -euo pipefail
cd "$(dirname "$0")"
resume=$([[ -d run ]] && echo --resume || true)
ibtpo compare branching --model nano --data walk:test --limit 1000 --temperature 1 --top-p 1 --top-k 0 \
  --max-completion-length 36 --output run $resume --arms random fixed_width entropy eptree ib,confidence=joint ib \
  ib,confidence=joint,ib_beta=1 ib,value=draws,confidence=joint,ib_beta=1
cp run/{summary.json,table.md} .
