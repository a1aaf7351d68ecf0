#!/usr/bin/env bash
# Collects the wheels that a GPU machine without a network lacks, for check.sh and bench.sh; needs a network itself.
#
# Usage: scripts/gpu/wheels.sh [--all] [FOLDER]     (default build/gpu/wheels)
#
# As measured for Python 3.12 on x86-64: TRL, datasets, dill and multiprocess are 1.8 MB. They need pyarrow, pandas and
# xxhash, which a machine for machine learning most often has. With --all pyarrow (55.0 MB) and xxhash (0.5 MB) come
# too, 57.3 MB in all; pandas (12.0 MB) does not fit into 60 MB beside pyarrow and is left out. More than that is an
# error.
#
# Environment: PYTHON (one with pip), PYTHON_VERSION of the GPU machine (3.12).
set -euo pipefail
cd "$(dirname "$0")/../.."
packages=(trl datasets dill multiprocess)
if [ "${1:-}" = --all ]; then shift; packages+=(pyarrow xxhash); fi
folder=${1:-build/gpu/wheels}
pinned=()
for name in "${packages[@]}"; do pinned+=("$(grep -i "^$name==" constraints.txt)"); done
platforms=()
for name in manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64; do platforms+=(--platform "$name"); done
rm -rf "$folder"
"${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --implementation cp \
  --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" -d "$folder" "${pinned[@]}"
bytes=$(cat "$folder"/*.whl | wc -c)
ls "$folder"
awk "BEGIN { printf \"%.1f MB in %s\\n\", $bytes / 1e6, \"$folder\" }"
if [ "$bytes" -gt 60000000 ]; then
  echo "wheels.sh: more than 60 MB; leave out what the GPU machine has" >&2
  exit 1
fi
