#!/usr/bin/env bash
# Signal and noise in the policy gradients of branching rules and advantages at the paper's operating point: the untrained
# embedded model on 2000 problems of mixed difficulty. About ninety minutes of one CPU core; it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")"
python ../../gradient_signal/measure.py . --problems 2000 --groups "independent, 8" "independent, 12" random entropy eptree \
  ib "ib, β 1" "ib, draws, joint, β 1" --advantages grpo ibtpo "ibtpo, λ 0" "ibtpo, λ 0.5" "ibtpo, sqrt" treerl
