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
  export PYTHONPATH=$PYTHONPATH:$site  # last: what is installed goes before
fi

run() {  # SCRIPT RESULT [--tiny]: runs a script of this folder, which has eight minutes less half of one
  local script=$1 result=$2 device=cuda tiny=()
  if [ "${3:-}" = --tiny ]; then device=cpu tiny=(--tiny); fi
  timeout 450 "$python" "scripts/gpu/$script" --device "$device" "${tiny[@]}" --output "$result"
}
