"""The exactly solvable world: calibration, gradients, bias, learning curves, and the report.

python run.py calibrate|gradient|bias|learn|check|report|all [--points paper …] [--problems N] [--seeds N]
    [--arms core|all] [--rates R …]

Every command goes on where an earlier one was stopped. `check` repeats some stored runs, and fails if one differs now.
"""

import argparse
import json
import sys
from pathlib import Path

import arms
import bias
import calibrate
import gradient
import learning
import report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "exact-world"
CALIBRATION_SEED = 1
BIAS_PROBLEMS = 12


def calibrated(folder: Path) -> dict[str, dict]:
    """The fitted Beta parameters of every point, and what they reached; fitted now if the file lacks them."""
    path = folder / "calibration.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name, point in calibrate.POINTS.items():
        if name not in found:
            beta, reached = calibrate.fit(point, CALIBRATION_SEED)
            found[name] = {"about": point.about, "beta": beta, "reached": reached}
            path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            print(name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("command", choices=("calibrate", "gradient", "bias", "learn", "check", "report", "all"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--points", nargs="+", default=list(calibrate.POINTS), choices=list(calibrate.POINTS))
    parser.add_argument("--problems", type=int, default=1500, help="of the gradient study, at each point")
    parser.add_argument("--seeds", type=int, default=50, help="worlds of the learning curves")
    parser.add_argument("--arms", choices=list(arms.SETS), default="all", help="of the learning curves")
    parser.add_argument("--rates", nargs="+", type=float, default=[], help="learn with each of these, too")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    betas = {name: tuple(found["beta"]) for name, found in calibrated(args.output).items()}
    if args.command in ("gradient", "all"):
        for done in range(gradient.CHUNK, args.problems + 1, gradient.CHUNK):
            for point in args.points:
                gradient.run(point, betas[point], done // gradient.CHUNK, args.output / "run")
    if args.command in ("bias", "all"):
        for point in args.points:
            bias.run(point, betas[point], BIAS_PROBLEMS, args.output / f"bias-{point}.jsonl")
    if args.command in ("learn", "all"):
        runs = learning.Runs(args.output / "learning.jsonl")
        for point in args.points:
            learning.run(point, arms.SETS[args.arms], args.seeds, runs, betas, args.rates)
    if args.command == "check":
        if found := learning.outdated(learning.Runs(args.output / "learning.jsonl"), betas):
            sys.exit("other results now, delete their lines in learning.jsonl: " + "; ".join(found))
        print("the stored runs are what they would be now")
    if args.command in ("report", "all"):
        report.write(args.output)


if __name__ == "__main__":
    main()
