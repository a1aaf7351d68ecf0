#!/usr/bin/env bash
# Branching rules on 64 real GSM8K test problems with SmolLM2-135M-Instruct, on two CPU cores.
# Usage: run.sh GSM8K_TEST.jsonl   (JSON Lines with `question` and `answer`)
set -euo pipefail
cd "$(dirname "$0")"
ask="Solve the problem step by step, with a blank line between steps. End with the answer as \\boxed{number}."
ibtpo compare branching --model smollm2-135m --data "$1" --limit 64 --instruction "$ask" --max-completion-length 80 \
  --pool 12 --output run --arms random ib ib,value=draws,confidence=joint,beta=1
cp run/{summary.json,table.md} .
