#!/usr/bin/env bash
# What a parameter costs in each way of spreading a run, measured beside the table of the dry run. A quarter of an hour on
# two cores, in the environment of `make test-deepspeed` (.venv-deepspeed).
set -euo pipefail
cd "$(dirname "$0")"
python ../../memory/measure.py .
