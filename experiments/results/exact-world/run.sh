#!/usr/bin/env bash
# The exactly solvable world, one CPU core. Each command goes on where it was stopped; `report` may be run at any time.
# What is reported has these numbers of problems and worlds.
set -euo pipefail
cd "$(dirname "$0")/../../exact_world"
points=(paper alike late starved)
python run.py gradient --problems 2000
python run.py bias --points "${points[@]}"
python run.py learn --points "${points[@]}" --arms all --seeds 50
python run.py learn --points deep6 deep12 deep24 --arms core --seeds 50
python run.py learn --points paper starved --arms core --seeds 50 --rates 0.08 0.16
python run.py check
python run.py report
