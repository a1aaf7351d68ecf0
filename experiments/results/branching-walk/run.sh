#!/usr/bin/env bash
# Branching rules on 512 held-out problems of the embedded task, the untrained embedded model. The arms of the last line
# were chosen on 512 problems of the train split.
set -euo pipefail
cd "$(dirname "$0")"
ibtpo compare branching --model nano --data walk:test --limit 512 --temperature 1 --top-p 1 --top-k 0 \
  --max-completion-length 36 --output run --arms random fixed_width entropy ib ib,beta=1 ib,beta=20 ib,value=draws \
  ib,confidence=joint ib,confidence=head:1 ib,weight=unique ib,value=draws,confidence=joint,beta=1
cp run/{summary.json,table.md} .
