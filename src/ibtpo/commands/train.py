"""`ibtpo train`: what is printed around a run of `ibtpo.train`.

While it trains there is a live screen; afterwards a table of held-out accuracy before and after, and the report page.
"""

import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .._files import FULL
from .._text import percent, table
from ..errors import CheckpointError
from ..training import launch
from ..training.live import LiveScreen
from ..training.processes import alone_unless_launched

if TYPE_CHECKING:
    from ..training.launch import Prepared, Run


def run(
    recipe: str | None,
    overrides: dict[str, Any],
    *,
    output: str | None = None,
    resume: str | bool | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    accelerate: str | None = None,
    gpu_memory_gb: float | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Trains and prints the result; returns the exit code.

    recipe: a YAML file or the name of a shipped recipe.
    overrides: settings that take the place of the recipe's.
    output: the run folder; by default `runs/NAME-METHOD-TIME`.
    resume: a run folder to go on with, or True for the one in `output`.
    overwrite: whether to start again in an existing run folder.
    dry_run: whether to print the settings and the memory that each GPU needs, and train nothing.
    accelerate, gpu_memory_gb: for that, the accelerate file, or the name of a shipped one, and the size of a GPU.
    quiet: whether to print no progress.
    as_json: whether the result is printed as JSON; progress then goes to stderr.
    """
    with launch.quiet_libraries(), alone_unless_launched(_warn):
        prepared = launch.prepare(recipe, overrides, output=output, resume=resume, overwrite=overwrite)
        if dry_run:
            _print_plan(prepared, accelerate, gpu_memory_gb, as_json)
            return 0
        return _train(prepared, quiet, as_json)


def _train(prepared: "Prepared", quiet: bool, as_json: bool) -> int:
    """Trains and prints the result; returns the exit code."""
    folder = prepared.folder.path
    is_main = os.environ.get("RANK", "0") == "0"
    console = _Console(stderr=as_json, quiet=quiet or not is_main)
    screen = LiveScreen(console)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    try:
        result = launch.train_prepared(prepared, [] if quiet else [screen], None if quiet else say)
    except KeyboardInterrupt as e:
        screen.stop()  # else the screen would hide the line below
        if not (folder / "config.yaml").is_file():
            raise
        if is_main:
            print(f"interrupted; {_how_to_go_on(folder)}", file=sys.stderr)
        return 128 + getattr(e, "signal", signal.SIGINT)  # as a shell reports it
    except BrokenPipeError:
        screen.stop()
        print(f"nobody reads the output any more; {_how_to_go_on(folder)}", file=sys.stderr)
        raise
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise CheckpointError(f"{e.filename}: {e.strerror}; make room, then {_how_to_go_on(folder)}") from e
    finally:
        screen.stop()
    if is_main:
        _report(console, result, try_report(folder), as_json)
    return 0


class _Console(Console):
    """A console that raises `BrokenPipeError` when its reader has gone, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


def _how_to_go_on(folder: Path) -> str:
    return f"go on with: ibtpo train --resume {shlex.quote(str(folder))}"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def list_options() -> int:
    """Prints every option that TRL does not have, or has with another default; TRL documents the others."""
    from ..training import settings as st

    rows = [(name, str(default), help) for name, default, help in st.describe()]
    print(table([("option", "default", "meaning"), *rows], left=3))
    print("\nEvery other field of trl.GRPOConfig is an option, too.")
    return 0


def _print_plan(prepared: "Prepared", accelerate: str | None, gpu_memory_gb: Any, as_json: bool) -> None:
    """Prints the settings and the memory. Raises `ConfigError` if a GPU cannot hold what the run needs."""
    from ..training import memory

    config, settings = prepared.config, prepared.settings
    gpu = memory.gpu_size(gpu_memory_gb)
    layout = memory.layout_of(accelerate)
    model = memory.config_of(prepared.run.model)
    items: list[memory.Item] = []
    if model is not None:
        items = memory.items_of(memory.shape_of(model, prepared.adapter), layout, config, prepared.run.dtype, gpu)
    budget = config.budget()
    plan = {
        "output": str(prepared.folder.path),
        "trajectories_per_question": budget.trajectories,
        "tree": [budget.b0, budget.rounds, budget.k, budget.b],
        "answers_per_step": config.generation_batch_size,
        "max_generated_tokens": config.max_generated_tokens,
        "memory_gb": {item.what: round(item.size / 1e9, 3) for item in items},
        "peak_memory_gb": round(memory.peak(items) / 1e9, 3),
        "settings": settings,
    }
    if as_json:
        print(json.dumps(plan))
    else:
        shown = {k: v for k, v in plan.items() if k not in ("settings", "memory_gb", "peak_memory_gb")}
        print("\n".join(f"{key}: {value}" for key, value in {**shown, **settings}.items()))
        unknown = f"memory: not known, since the configuration of {prepared.run.model} is not at hand"
        print(f"\n{memory.describe(items, layout, gpu) if items else unknown}")
    memory.refuse_what_cannot_fit(items, gpu)


def try_report(folder: Path) -> Path | None:
    """Writes the report page of a run, or warns and returns None: a finished training must not fail for its report."""
    try:
        from ..report.run import write_report

        return write_report(folder)
    except Exception as e:
        again = shlex.join(["ibtpo", "report", str(folder)])
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        print(f"warning: no report was written ({reason}); try again with: {again}", file=sys.stderr)
        return None


def known_results(settings: Mapping[str, Any]) -> str | None:
    """What GRPO and IB-TPO reach with the embedded task's recipe, as measured before, as two lines of text.

    settings: those of a run, spelt out as `config.yaml` holds them.

    Returns None for a run that departs from the recipe in more than seed and method: the numbers do not speak of it.
    """
    from ..storage.recipes import FOLDER
    from ..training import settings as st

    file = FOLDER / "nano-walk.json"
    own = {name: settings[name] for name in ("method", "seed") if name in settings}
    wanted = st.resolve(st.base_settings("nano-walk", {})[1], own)
    # The recipe's own settings first: for other runs its configuration need not be valid, say with three processes.
    if not file.is_file() or any(settings.get(name) != value for name, value in wanted.items()):
        return None
    if st.resolved(wanted, st.make_config(*st.split(wanted), Path("unused"))) != settings:
        return None
    known = json.loads(file.read_text(encoding="utf-8"))
    arms = [f"{name} {percent(arm['acc'], arm['ci'])}" for name, arm in known["arms"].items()]
    return (
        f"for the same {known['tokens']:,} tokens: {', '.join(arms)}\n"
        f"({known['seeds']} seeds, {known['problems']} validation problems, {known['source']}); "
        "to see GRPO: ibtpo train --method grpo"
    )


def _report(console: Console, run: "Run", report: Path | None, as_json: bool) -> None:
    before, after = run.before, run.after
    if as_json:
        page = None if report is None else str(report)
        results = {name: result for name, result in (("before", before), ("after", after)) if result is not None}
        print(json.dumps({"output": str(run.path), "seconds": round(run.seconds, 1), "report": page, **results}))
        return
    if before is not None and after is not None:
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
    console.print(f"done in {run.seconds:.0f} s; run folder: {run.path}", highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
    if text := known_results(run.settings):
        console.print(text, highlight=False, soft_wrap=True)
