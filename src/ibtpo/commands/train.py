"""`ibtpo train`: from a recipe to a run folder with a before/after table."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .._text import percent, table
from ..errors import CheckpointError, ConfigError
from ..storage.run_folder import RunFolder
from ..training.launch import quiet_warnings, same_everywhere, train
from ..training.settings import base_settings


def run(
    recipe: str | None,
    overrides: dict[str, Any],
    *,
    output: str | None = None,
    resume: str | bool | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Trains; returns the exit status.

    recipe: a YAML file or the name of a shipped one. resume: a run folder, or True for `output`.
    """
    quiet_warnings()
    from ..training import settings as st

    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if resume:
        folder = RunFolder(resume if isinstance(resume, str) else output or _missing_folder())
        if recipe or overrides:
            raise ConfigError(f"--resume takes the settings of {folder.path}; leave out {recipe or list(overrides)}")
        try:
            settings = st.resolve(folder.settings(), {})
        except ConfigError as e:
            raise CheckpointError(f"{folder.path / 'config.yaml'}: {e}") from e
    else:
        name, found = base_settings(recipe, overrides)
        settings = st.resolve(found, overrides)
        now = same_everywhere(time.strftime("%Y%m%d-%H%M%S"))
        folder = RunFolder(output or Path("runs") / f"{name}-{settings['method']}-{now}")
    run_settings, trainer_settings = st.split(settings)
    config = st.make_config(run_settings, trainer_settings, folder.path)
    settings = st.resolved(settings, config)
    if dry_run:
        _print_plan(settings, config, folder, as_json)
        return 0
    try:
        seconds = train(settings, run_settings, config, folder, bool(resume), overwrite, quiet, as_json)
    except KeyboardInterrupt:
        if not (folder.path / "config.yaml").is_file():
            raise
        print(f"interrupted; go on with: ibtpo train --resume {shlex.quote(str(folder.path))}", file=sys.stderr)
        return 130
    if seconds is not None:
        console = Console(stderr=as_json, quiet=quiet)
        _report(console, folder, seconds, _write_report(folder), as_json)
    return 0


def list_options() -> int:
    """Prints the options of a run and of the method; TRL's own are on its documentation page."""
    from ..training import settings as st

    rows = [(name, str(default), help) for name, default, help in st.describe()]
    print(table([("option", "default", "meaning"), *rows], left=3))
    print("\nEvery other field of trl.GRPOConfig is an option, too.")
    return 0


def _missing_folder() -> str:
    raise ConfigError("--resume needs the run folder: --resume DIR")


def _print_plan(settings: dict[str, Any], config: Any, folder: RunFolder, as_json: bool) -> None:
    budget = config.budget()
    plan = {
        "output": str(folder.path),
        "trajectories_per_question": budget.trajectories,
        "tree": [budget.b0, budget.rounds, budget.k, budget.b],
        "answers_per_step": config.generation_batch_size,
        "max_generated_tokens": config.max_generated_tokens,
        "settings": settings,
    }
    if as_json:
        print(json.dumps(plan))
        return
    for key, value in {**{k: v for k, v in plan.items() if k != "settings"}, **settings}.items():
        print(f"{key}: {value}")


def _write_report(folder: RunFolder) -> Path | None:
    """The run's report.html, or None: a finished training does not fail for want of a picture of it."""
    try:
        from ..report.run import write_report

        return write_report(folder.path)
    except Exception as e:
        again = shlex.join(["ibtpo", "report", str(folder.path)])
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        print(f"warning: no report was written ({reason}); try again with: {again}", file=sys.stderr)
        return None


def _report(console: Console, folder: RunFolder, seconds: float, report: Path | None, as_json: bool) -> None:
    result = folder.read_eval()
    if as_json:
        page = None if report is None else str(report)
        print(json.dumps({"output": str(folder.path), "seconds": round(seconds, 1), "report": page, **result}))
        return
    if "before" in result and "after" in result:
        before, after = result["before"], result["after"]
        k = before["k"]
        table = Table(title=f"{before['n']} held-out problems, {k} answers each, 95 % intervals over problems")
        for column in ("", "before", "after", "change"):
            table.add_column(column)
        for name, label in (("avg", f"avg@{k}"), ("pass", f"pass@{k}")):
            known = before[name] is not None and after[name] is not None
            change = f"{100 * (after[name] - before[name]):+.1f} points" if known else ""
            values = [percent(r[name], r[f"{name}_ci"]) for r in (before, after)]
            table.add_row(label, *values, change)
        console.print(table)
    console.print(f"done in {seconds:.0f} s; run folder: {folder.path}", highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
