#!/usr/bin/env bash
# Studies that looked for better open choices, on 300 validation problems that are neither trained on nor held out.
# The first three were stopped before all their seeds were run: what they show is in the tables.
set -euo pipefail
cd "$(dirname "$0")"
python - <<'PY'
import json
from ibtpo.tasks.walk import make_problems
open("validation.jsonl", "w").writelines(json.dumps(p) + "\n" for p in make_problems("train", 300, seed=77))
PY
study() {  # NAME TOKENS RATE SEEDS EVALUATIONS SETTINGS ARM...
  ibtpo compare training --output "run-$1" --tokens "$2" --learning-rates "$3" --seeds $4 --validation 50 \
    --evaluations "$5" --set beta=0.001 eval_data=validation.jsonl eval_limit=300 $6 --jobs 2 --arms "${@:7}"
  mkdir -p "$1"
  cp "run-$1"/{summary.json,table.md} "$1"
}
deep=branch_beta=1,value=draws
study rate-4e-4 200000 4e-4 "0 1 2" 2 "" grpo ibtpo ibtpo,prefix_weight=sqrt "ibtpo,$deep" "ibtpo,$deep,prefix_weight=sqrt" \
  "ibtpo,$deep,prefix_weight=sqrt,ib_beta=20,lam=0.5" treerl "treerl,branching=ib,$deep"
study rate-3e-4 200000 3e-4 "0 1 2" 2 "" grpo ibtpo ibtpo,prefix_weight=sqrt ibtpo,prefix_weight=once \
  ibtpo,prefix_weight=sqrt,ib_beta=20,branch_beta=5,lam=0.3 treerl
study four-questions 200000 2e-4 "0 1" 2 prompts_per_step=4 grpo ibtpo ibtpo,prefix_weight=sqrt treerl
study choices 100000 3e-4 "0 1" 1 "" grpo grpo,prompts_per_step=8 ibtpo ibtpo,prompts_per_step=8 \
  ibtpo,prefix_weight=sqrt ibtpo,prefix_weight=once ibtpo,confidence=geomean ibtpo,value=draws ibtpo,weight=unique \
  ibtpo,ib_policy=ref ibtpo,ib_on_uniform_trees=false ibtpo,ratio_prior=1
