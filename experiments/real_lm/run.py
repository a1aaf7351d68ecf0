"""A real language model at the paper's operating point: warm-up, choice of problems, branching, gradients, training.

python run.py warm-up|choose|branching|gradient|train|all [--sizes cpu|gpu|tiny] [--data-folder DIR] [--output DIR]

Every command goes on where an earlier one was stopped, and does first what it needs. What is large, weights and
the problems' texts among it, is kept in OUTPUT/run, which git ignores; OUTPUT gets numbers and the ids of problems.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from choice import choose, expected, fit_beta, reached
from kept import pack, unpack
from sizes import SIZES, Sizes
from warm_up import merge, warm_up
from word_problems import FILES, read_problems, read_rows, split_rows, write_made_up, write_rows

from ibtpo import cli
from ibtpo.compare.training import write_data
from ibtpo.metrics import correctness
from ibtpo.tree import read_trees

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "real-lm"
RECIPE = HERE / "training.yaml"
TEMPERATURE = 0.7  # the paper's
SCREENING, FRESH = 1, 2  # seeds of the answers that problems are chosen by, and of those that say what was reached
ARMS = ["random", "entropy", "eptree", "ib", "ib,value=draws,confidence=joint,ib_beta=1"]
GROUPS = ["independent, 8", "entropy", "eptree", "ib", "ib, draws, joint, β 1"]
ADVANTAGES = ["grpo", "ibtpo", "ibtpo, sqrt", "treerl"]

sys.path.insert(0, str(HERE.parent / "gradient_signal"))


class Work:
    """What the commands share: sizes, and the folders of data and results."""

    def __init__(self, sizes: Sizes, data: Path, output: Path, jobs: int = 1) -> None:
        self.sizes, self.data, self.output, self.run, self.jobs = sizes, data, output, output / "run", jobs
        self.base = self.run / "base"

    def rows(self, name: str) -> Path:
        """The file of a kind of problems."""
        return self.run / "data" / f"{name}.jsonl"

    def sampling(self) -> list[str]:
        """Options of ibtpo's verbs: the model, how it is prompted, and how answers are sampled and graded."""
        return [
            "--model", str(self.base), "--system-prompt", "", "--verifier", "math", "--temperature", str(TEMPERATURE),
            "--top-p", "1", "--top-k", "0", "--max-completion-length", str(self.sizes.length),
            "--max-in-flight", str(self.sizes.in_flight), "--dtype", self.sizes.dtype,
        ]  # fmt: skip


def ibtpo(*words: str) -> None:
    """Runs `ibtpo` with these words; ends this program if it fails."""
    code = cli.main(list(words))
    if code:
        sys.exit(code)


def prepare_data(work: Work) -> None:
    """Splits the problems into those taught, those tried for training, and those tried to be measured on."""
    if work.rows("held_out").exists():
        return
    folder, sizes = work.data, work.sizes
    if sizes is SIZES["tiny"]:
        folder = work.run / "made_up"
        write_made_up(folder / "gsm8k_train.jsonl", 20, 0)
        write_made_up(folder / "gsm8k_test.jsonl", 6, 1)
    elif missing := [name for names in FILES.values() for name in names if not any(folder.glob(name))]:
        sys.exit(
            f"{', '.join(missing)} not found in {folder}: docs/real-lm.md says where these word problems are from; "
            "name their folder with --data-folder or IBTPO_DATA. Nothing was done."
        )
    parts = split_rows(read_problems(folder, "train"), read_problems(folder, "test"), sizes.warm_up, sizes.longest)
    for name, rows in parts.items():
        write_rows(work.rows(name), rows)


def make_base(work: Work) -> None:
    """Trains the warm-up's adapter, unless one is kept with the results, and merges it into the model."""
    s = work.sizes
    adapter = work.output / "adapter"
    if not adapter.is_dir():
        adapter = work.run / "warm_up" / "adapter"
    if not adapter.is_dir():
        prepare_data(work)
        warm_up(
            s.model, read_rows(work.rows("warm_up")), work.run / "warm_up",
            epochs=s.epochs, size=s.batch, rate=s.rate, most_tokens=s.most_tokens, dtype=s.dtype,
        )  # fmt: skip
    merge(s.model, adapter, work.base)


def sample(work: Work, name: str, seed: int) -> dict[str, list[float]]:
    """The correctness of each answer to the problems of a file, by their ids; answers that are missing are sampled."""
    path = work.run / "answers" / f"{name}-{seed}.jsonl.gz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        ibtpo(
            "sample", *work.sampling(), "--data", str(work.rows(name)), "--branching", "independent",
            "--tree", f"{work.sizes.answers},1,1,1", "--seed", str(seed), "--resume", "--json", "--output", str(path),
        )  # fmt: skip
    return {tree.id: correctness(tree) for tree in read_trees(path)}


def take_up(work: Work, chosen: dict[str, Any]) -> None:
    """Writes the files of chosen problems from the data and the ids of a problems.json that is there already."""
    ids = {"train": chosen["train"]["ids"] + chosen["validation"]["ids"], "held_out": chosen["held_out"]["ids"]}
    for name, wanted in ids.items():
        rows = {row["id"]: row for row in read_rows(work.rows(name))}
        write_rows(work.rows(f"chosen_{name}"), [rows[i] for i in wanted])


def choose_problems(work: Work) -> None:
    """Chooses problems, measures them on new answers, and writes problems.json; one that is there is followed."""
    known = work.output / "problems.json"
    if known.exists() and work.rows("chosen_held_out").exists():
        return
    make_base(work)
    prepare_data(work)
    if known.exists():  # chosen elsewhere: the same problems are taken from the data
        take_up(work, json.loads(known.read_text()))
        return
    s, sizes = work.sizes, {"train": work.sizes.train + work.sizes.validation, "held_out": work.sizes.held_out}
    about: dict[str, Any] = {
        "model": s.model, "temperature": TEMPERATURE, "longest": s.longest, "most_tokens": s.length
    }  # fmt: skip
    for name, size in sizes.items():
        rows = read_rows(work.rows(name))
        tried = sample(work, name, SCREENING)
        right = [round(sum(tried[row["id"]])) for row in rows]
        beta = fit_beta(right, s.answers)
        chosen = choose(right, s.answers, min(size, len(rows)), beta=beta)
        write_rows(work.rows(f"chosen_{name}"), [rows[i] for i in chosen])
        hopes = [expected(right[i], s.answers, beta) for i in chosen]
        about[name] = {
            "tried": reached([tried[row["id"]] for row in rows]),
            "beta": beta,
            "expected": dict(zip(("success", "mixed"), np.mean(hopes, 0).tolist(), strict=True)),
            "reached": reached(list(sample(work, f"chosen_{name}", FRESH).values())),
            "ids": [rows[i]["id"] for i in chosen],
        }  # fmt: skip
        print(name, {key: value for key, value in about[name].items() if key != "ids"}, flush=True)
    about["validation"] = {"ids": about["train"]["ids"][s.train :]}  # the last ones: see `ibtpo compare training`
    about["train"]["ids"] = about["train"]["ids"][: s.train]
    (work.output / "problems.json").write_text(json.dumps(about, indent=1) + "\n")


def keep(source: Path, target: Path, *names: str) -> None:
    """Copies the small results of a command to where git keeps them."""
    target.mkdir(exist_ok=True)
    for path in (found for name in names for found in source.glob(name)):
        shutil.copy(path, target / path.name)


def compare_branching(work: Work) -> None:
    """The branching table on the problems chosen for training."""
    folder = work.run / "branching"
    ibtpo(
        "compare", "branching", *work.sampling(), "--data", str(work.rows("chosen_train")), "--limit",
        str(work.sizes.train), "--pool", str(work.sizes.pool), "--output", str(folder), "--arms", *ARMS, "--resume",
    )  # fmt: skip
    keep(folder, work.output / "branching", "summary.json", "table.md")


def measure_gradients(work: Work) -> None:
    """Signal to noise of the gradients of a fresh LoRA adapter."""
    import measure

    s, folder = work.sizes, work.run / "gradient"
    measure.main(
        [
            str(folder), "--model", str(work.base), "--lora", "16", "--data", str(work.rows("chosen_train")),
            "--system-prompt", "", "--problems", str(s.gradient_problems), "--answers", str(s.gradient_answers),
            "--batch", str(s.gradient_batch), "--temperature", str(TEMPERATURE), "--max-completion-length",
            str(s.length), "--confidence", "geomean", "--groups", *GROUPS, "--advantages", *ADVANTAGES,
        ]
    )  # fmt: skip
    keep(folder, work.output / "gradient", "summary.json", "table.md")


def train(work: Work) -> None:
    """GRPO beside IB-TPO at equal tokens and optimiser steps; goes on with the finished runs that are kept."""
    s, folder, archive = work.sizes, work.run / "training", work.output / "training" / "kept.tar.xz"
    settings = {
        "model": work.base, "data": work.rows("chosen_train"), "eval_data": work.rows("chosen_held_out"),
        "eval_limit": s.held_out, "max_completion_length": s.length, "prompts_per_step": s.prompts,
    }  # fmt: skip
    unpack(archive, folder)
    if (folder / "plan.json").exists() and not (folder / "data").exists():
        recipe = yaml.safe_load(RECIPE.read_text()) | settings
        write_data(folder, recipe | {name: str(recipe[name]) for name in ("model", "data", "eval_data")}, s.validation)
    rates = map(str, s.rates)
    try:
        ibtpo(
            "compare", "training", str(RECIPE), "--output", str(folder), "--arms", "grpo", "ibtpo", "--seeds",
            *map(str, s.seeds), "--tokens", str(s.tokens), "--pilot-tokens", str(s.pilot_tokens), "--learning-rates",
            *rates, "--validation", str(s.validation), "--evaluations", "2", "--jobs", str(work.jobs), "--resume",
            "--set", *(f"{name}={value}" for name, value in settings.items()),
        )  # fmt: skip
    finally:
        if (folder / "plan.json").exists():
            pack(folder, archive)
        keep(folder, work.output / "training", "summary.json", "table.md", "curves.csv", "*.svg")


COMMANDS = {
    "warm-up": make_base,
    "choose": choose_problems,
    "branching": compare_branching,
    "gradient": measure_gradients,
    "train": train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("command", choices=(*COMMANDS, "all"))
    parser.add_argument("--sizes", choices=list(SIZES), default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--data-folder", type=Path, default=Path(os.environ.get("IBTPO_DATA", "data")), metavar="DIR",
        help="holds the word problems, see docs/real-lm.md (default: $IBTPO_DATA, else data)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: results/real-lm, with `--sizes tiny` run-tiny in it"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="training runs at once, a core each (default: 1)"
    )
    args = parser.parse_args()
    args.output = args.output or (RESULTS / "run-tiny" if args.sizes == "tiny" else RESULTS)
    args.output.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # what is finished is kept
    work = Work(SIZES[args.sizes], args.data_folder, args.output, args.jobs)
    for name, command in COMMANDS.items():
        if args.command in (name, "all"):
            if name not in ("warm-up", "choose"):
                choose_problems(work)
            command(work)


if __name__ == "__main__":
    main()
