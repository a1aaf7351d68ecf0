#!/usr/bin/env bash
# Signal and noise in the policy gradients of branching rules and advantages, untrained embedded model, one CPU core.
set -euo pipefail
cd "$(dirname "$0")"
python ../../gradient_signal/measure.py . --problems 192
