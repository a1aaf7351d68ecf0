#!/usr/bin/env bash
# Our grades against other people's graders on stored answers.
# Usage: run.sh DATA SAMPLED SECOND_PYTHON WORK
#   DATA: folder of the benchmarks' files. SAMPLED: folder of NAME.answers.jsonl by `ibtpo eval` (sample.sh).
#   SECOND_PYTHON: of an environment with 'lm-eval[math,ifeval]==0.4.13' and if-verifiable==0.1.2. WORK: for stored answers.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
code=$here/../../grader_agreement
data=$1 sampled=$2 second=$3 work=$4
python "$code/make_answers.py" --data "$data" --sampled "$sampled" --out "$work/answers"
python "$code/grade.py" --answers "$work/answers" --data "$data" --out "$work/ours"
"$second" "$code/second_grader.py" --answers "$work/answers" --data "$data" --out "$work/second"
python "$code/compare.py" --answers "$work/answers" --ours "$work/ours" --second "$work/second" --out "$here"
