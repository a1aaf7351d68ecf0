# Read by check.sh and bench.sh: goes to the repository's root, unpacks wheels, and defines `run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
out=${OUT:-build/gpu}
wheels=${WHEELS:-build/gpu/wheels}
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
mkdir -p "$out"
if compgen -G "$wheels/*.whl" > /dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH=$PYTHONPATH:$site  # goes before what is installed: carry nothing that the machine has
fi

run() {  # SCRIPT RESULT [--tiny]: runs a script of this folder, which has eight minutes less half of one
  local script=$1 result=$2 device=cuda limit=450 tiny=() code
  if [ "${3:-}" = --tiny ]; then device=cpu limit=0 tiny=(--tiny --seconds 3600); fi  # CPUs differ, and may be busy
  timeout $limit "$python" "scripts/gpu/$script" --device "$device" "${tiny[@]}" --output "$result" || {
    code=$?
    if [ $code = 124 ]; then echo "$script was stopped after $limit s; $result holds what it had found" >&2; fi
    exit $code
  }
}
