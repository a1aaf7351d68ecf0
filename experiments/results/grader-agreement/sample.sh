#!/usr/bin/env bash
# The sampled answers of run.sh: SmolLM2-135M-Instruct on the first problems of some benchmarks, on a CPU.
# Usage: sample.sh DATA OUT
set -euo pipefail
data=$1 out=$2
box='Solve the problem step by step. Put your final answer in \boxed{}.'
ask() { # name, file, problems, answers, tokens, more
  ibtpo eval --model smollm2-135m --benchmark "$1" --data "$data/$2.jsonl" --limit "$3" --k "$4" --max-completion-length "$5" \
    --max-in-flight 32 --output "$out/$1.json" "${@:6}"
}
ask gsm8k gsm8k_test 40 3 250 --instruction "$box"
ask amc2024 amc2024 22 4 200 --instruction 'Answer with the letter of the right choice in \boxed{}.'
ask math500 math500 60 2 250 --instruction "$box"
ask ifeval ifeval_input_data 80 1 200
ask amc2023 amc2023 40 1 200
ask aime2024 aime2024 30 1 200
