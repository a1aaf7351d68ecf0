#!/usr/bin/env bash
# Checks the update and the engine on one GPU of 80 GB, in under eight minutes (docs/engines.md, "The GPU suite").
#
# Usage: scripts/gpu/check.sh [--tiny]     --tiny: the same way on a CPU, with small models
#
# Needs PyTorch, transformers, accelerate, peft and this repository; no network, no weights. TRL is used where it is
# installed or lies in WHEELS as wheels.sh collects it; without it the checks that need it are skipped.
#
# Environment: OUT, a folder for check.json (default build/gpu); PYTHON; WHEELS (default build/gpu/wheels).
source "$(dirname "$0")/setup.sh"
run check.py "$out/check.json" "$@"
