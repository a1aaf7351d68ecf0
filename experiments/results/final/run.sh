#!/usr/bin/env bash
# The final test of plan.md: about 55 hours of one CPU core. It may be stopped at any time and started again, also in
# another clone: finished runs are kept in kept/, pilots and sizes in one archive, and each seed of all arms in another.
# STUDY... (200k, clip_higher, 1m) runs these only; JOBS=2 uses two cores.
set -euo pipefail
cd "$(dirname "$0")"
only=("$@")
few=(--exclude='*.html' --exclude=trees --exclude=report_data --exclude=checkpoints --exclude=.lock)

keep() {  # STUDY: the result of what is finished, and what is finished as archives of small files
  [[ -d run-$1 ]] || return 0
  mkdir -p kept
  if ibtpo compare training --output "run-$1" --summary-only > /dev/null; then
    mkdir -p "$1"
    cp "run-$1"/{summary.json,table.md,curves.csv} "run-$1"/*.svg "$1"
    [[ $1 == clip_higher ]] || python pairs.py "run-$1" "$1"
  fi
  parts=(); for part in plan.json arms data sizes pilots; do [[ -e run-$1/$part ]] && parts+=("run-$1/$part"); done
  tar --sort=name --mtime=@0 "${few[@]}" -cJf "kept/$1-setup.tar.xz" "${parts[@]}"
  for seed in $(seq 0 23); do
    mapfile -t done < <(find "run-$1/runs" -path "*/seed$seed/eval.json" -exec grep -l '"after"' {} + 2>/dev/null | sort)
    [[ ${#done[@]} == 0 ]] || tar --sort=name --mtime=@0 "${few[@]}" -cJf "kept/$1-seed$seed.tar.xz" "${done[@]%/eval.json}"
  done
}

begin_with_the_same_pilots() {  # a million tokens: the plan of 200k with these arms, and the pilots that chose its rates
  sizes=("${million[@]//[,=]/-}")
  tar --transform 's/^run-200k/run-1m/' -xJf kept/200k-setup.tar.xz run-200k/{plan.json,data,pilots/{grpo,ibtpo,treerl-branching-entropy}} \
    "${sizes[@]/#/run-200k/sizes/}"
  python - "${million[@]}" <<< '
import json, sys
plan = json.load(open("run-1m/plan.json"))
plan["shared"]["tokens"], plan["arms"], plan["seeds"] = 1000000, sys.argv[1:], []
json.dump(plan, open("run-1m/plan.json", "w"), indent=1)'
}

study() {  # STUDY ARGUMENT...
  [[ ${#only[@]} == 0 || " ${only[*]} " == *" $1 "* ]] || return 0
  for archive in kept/"$1"-*.tar.xz; do [[ -e $archive ]] && tar --skip-old-files -xJf "$archive"; done
  [[ $1 != 1m || -d run-1m ]] || begin_with_the_same_pilots
  trap "keep $1" EXIT
  resume=$([[ -f run-$1/plan.json ]] && echo --resume || true)
  ibtpo compare training --output "run-$1" $resume --pilot-tokens 100000 --pilot-seeds 1000 1001 1002 --validation 200 \
    --evaluations 2 --jobs "${JOBS:-1}" "${@:2}"
  keep "$1"
  trap - EXIT
}

warm=(--set eval_limit=300 save_trees_every=0 lr_scheduler_type=constant_with_warmup warmup_steps=10)
rates=(1.5e-4 3e-4 6e-4)
best=ibtpo,branch_beta=1,branch_value=draws
four=(grpo ibtpo "$best" treerl)
million=(grpo ibtpo ibtpo,advantage=grpo treerl,branching=entropy "$best")
methods=("${four[@]}" ibtpo,branching=ib_adaptive grpo,branching=independent_adaptive treepo ibtpo,branching=entropy grpo_entropy ibro)
# Every tree with every credit: what of TreeRL counts.
credits=(ibtpo,prefix_weight=sqrt treerl,branching=ib ibtpo,branching=entropy,prefix_weight=sqrt
  treerl,branching=ib,branch_beta=1,branch_value=draws treerl,branching=entropy ibtpo,branching=eptree,prefix_weight=sqrt)
# What of A_IB costs: its push away from what is likely, in trees that are all right or all wrong or in all?
why=(ibtpo,ib_on_uniform_trees=false ibtpo,lam=0.5,ib_on_uniform_trees=false ibtpo,lam=0.5,ib_beta=20)
two_hundred() {
  study 200k --tokens 200000 --learning-rates "${rates[@]}" --rates-by-method --seeds {0..23} "${warm[@]}" --arms "$@"
}
two_hundred "${methods[@]}" "${credits[@]}"
two_hundred "${methods[@]}" "${credits[@]}" components
two_hundred "${methods[@]}" "${credits[@]}" components "${why[@]}"
study clip_higher --tokens 200000 --learning-rates 3e-4 --seeds 0 "${warm[@]}" --arms grpo grpo_clip_higher
study 1m --tokens 1000000 --learning-rates "${rates[@]}" --rates-by-method --seeds {0..11} "${warm[@]}" --arms "${million[@]}"
