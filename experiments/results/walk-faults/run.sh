#!/usr/bin/env bash
# Why answers to walks fail, before training and after it: three seeds of six arms of the final test are trained again, and
# each model gives eight answers to each of the 300 held-out problems. About an hour of one CPU core. run/ keeps what is
# finished.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p run/trees
tar --skip-old-files -xJf ../final/kept/200k-setup.tar.xz run-200k/arms run-200k/data

answers() {  # MODEL NAME
  [[ -e run/trees/$2.jsonl.gz ]] && return
  ibtpo sample --model "$1" --data run-200k/data/held_out.jsonl --limit 300 --verifier walk --branching independent \
    --tree 8,1,1,1 --seed 77 --temperature 1 --top-p 1 --top-k 0 --max-completion-length 36 --quiet \
    --output "run/$2.jsonl.gz"
  mv "run/$2.jsonl.gz" run/trees
}

answers nano base
for seed in 0 1 2; do
  for arm in grpo ibtpo-advantage-grpo ibtpo-lam-0 ibtpo ibtpo-lam-0.5 treerl-branching-entropy; do
    trained=run/runs/$arm-seed$seed
    [[ -e $trained/model ]] || ibtpo train "run-200k/arms/$arm.yaml" --learning_rate 3e-4 --seed "$seed" --output "$trained" --quiet
    answers "$trained/model" "$arm-seed$seed"
  done
done
python ../../walk_faults/count.py .
