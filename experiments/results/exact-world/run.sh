#!/usr/bin/env bash
# The exactly solvable world, one CPU core. Each command goes on where it was stopped; `report` may be run at any time.
# What is reported has these numbers of problems and worlds.
set -euo pipefail
cd "$(dirname "$0")/../../exact_world"
points=(paper alike late starved)
python run.py gradient --points paper --problems 400
python run.py gradient --points alike late starved --problems 350
python run.py gradient --points deep6 deep12 deep24 --problems 150
python run.py bias --points paper
python run.py learn --points "${points[@]}" --arms core --seeds 50
python run.py learn --points "${points[@]}" --arms by-need --seeds 50
python run.py learn --points "${points[@]}" --arms lambda --seeds 50
python run.py learn --points paper starved --arms core --seeds 50 --rates 0.08 0.16
python run.py check
python run.py report
