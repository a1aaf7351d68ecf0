#!/usr/bin/env bash
# Signal and noise in the policy gradients of a policy that has learned: GRPO's after the 200,000 tokens of the final test,
# seed 0. About forty minutes of one CPU core; it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p run
tar --skip-old-files -xJf ../final/kept/200k-setup.tar.xz run-200k/arms run-200k/data
[[ -e run/grpo/model ]] || ibtpo train run-200k/arms/grpo.yaml --learning_rate 3e-4 --seed 0 --output run/grpo --quiet
python ../../gradient_signal/measure.py . --model run/grpo/model --problems 1000 --groups "independent, 8" entropy ib \
  --advantages grpo ibtpo "ibtpo, mixed trees only" "ibtpo, λ 0.5" "ibtpo, sqrt" treerl
