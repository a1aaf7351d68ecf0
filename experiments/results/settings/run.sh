#!/usr/bin/env bash
# Looks for settings on 300 validation problems that are neither trained on nor held out: learning rates, schedules, and
# what mends runs that fall apart. Three seeds each, 200k generated tokens a run, equal optimiser steps.
# STUDY... runs these studies only.
set -euo pipefail
cd "$(dirname "$0")"
python - <<'PY'
import json
from ibtpo.tasks.walk import make_problems
open("validation.jsonl", "w").writelines(json.dumps(p) + "\n" for p in make_problems("train", 300, seed=77))
PY
study() {  # NAME RATE SETTINGS ARM...
  [[ ${#only[@]} == 0 || " ${only[*]} " == *" $1 "* ]] || return 0
  resume=$([[ -d run-$1 ]] && echo --resume || true)
  ibtpo compare training --output "run-$1" --tokens 200000 --learning-rates "$2" --seeds 100 101 102 --validation 50 \
    --evaluations 2 --set eval_data=validation.jsonl eval_limit=300 $3 --jobs "${JOBS:-1}" $resume --arms "${@:4}"
  mkdir -p "$1"
  cp "run-$1"/{summary.json,table.md} "$1"
}
only=("$@")
# What mends runs that fall apart at a rate that is too high; half the tokens, for they fall apart early.
mends() {
  [[ ${#only[@]} == 0 || " ${only[*]} " == *" mends "* ]] || return 0
  arms=()
  for mend in "" ,lr_scheduler_type=constant_with_warmup,warmup_steps=10 ,max_grad_norm=0.05 ,adam_beta2=0.95 ,beta=0.04 \
    ,scale_rewards=none ,prompts_per_step=32 ,adam_beta1=0.97; do arms+=("grpo$mend" "ibtpo$mend"); done
  resume=$([[ -d run-mends ]] && echo --resume || true)
  ibtpo compare training --output run-mends --tokens 100000 --learning-rates 6e-4 --seeds 100 101 --validation 50 \
    --evaluations 1 --no-match-steps --set eval_data=validation.jsonl eval_limit=200 --jobs "${JOBS:-1}" $resume \
    --arms "${arms[@]}"
  mkdir -p mends
  cp run-mends/{summary.json,table.md} mends
}
mends
study rate-15e-5 1.5e-4 "" grpo ibtpo
study rate-3e-4 3e-4 "" grpo ibtpo
study rate-6e-4 6e-4 "" grpo ibtpo
linear=lr_scheduler_type=linear
study linear-3e-4 3e-4 "$linear" grpo ibtpo
study linear-6e-4 6e-4 "$linear" grpo ibtpo
