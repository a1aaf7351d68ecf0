#!/usr/bin/env bash
# SmolLM2-135M-Instruct on 16 real GSM8K training problems: trees, their scores, and two training steps, all on CPU.
# Usage: run.sh GSM8K_TRAIN.jsonl   (JSON Lines with `question` and `answer`)
set -euo pipefail
cd "$(dirname "$0")"
data=$1
ask="Solve the problem step by step, with a blank line between steps. End with the answer as \\boxed{number}."
ibtpo sample --model smollm2-135m --data "$data" --limit 16 --tree 4,9,1,1 --seed 0 --max-completion-length 200 \
  --instruction "$ask" --output trees.jsonl.gz --json > summary.json
ibtpo score trees.jsonl.gz --json | gzip -n > scores.jsonl.gz
ibtpo train smollm2-gsm8k --data "$data" --limit 16 --eval_data none --max_generated_tokens null --max_steps 2 \
  --prompts_per_step 2 --max_completion_length 200 --save_steps 2 --output run
cp run/metrics.jsonl run/env.json .
