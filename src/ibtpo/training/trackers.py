"""Trackers named by `report_to`: where TensorBoard and W&B put their files, and sample trees among what they show.

Metrics and completions tables are TRL's to send. Trees are ours: each time trees are written to the run's folder, one
of them goes as text to TensorBoard, trackio and W&B. Nothing here is loaded unless `report_to` names it.
"""

import html
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DependencyError

if TYPE_CHECKING:
    from ..tree import ReasoningTree

PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}  # that show our trees
KEY = "ibtpo/tree"

# What sends files elsewhere than to the run's folder, where they would be looked for.
_FOLDERS = {"tensorboard": ("TENSORBOARD_LOGGING_DIR", "tensorboard"), "wandb": ("WANDB_DIR", "")}


def check_installed(report_to: Sequence[str]) -> None:
    """Raises `DependencyError` for a tracker whose package is missing, before a model is loaded."""
    for name in report_to:
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            raise DependencyError(f"report_to {name} needs the package {name!r}: pip install {name}")


@contextmanager
def files_in(folder: Path, report_to: Sequence[str], quiet: bool = False) -> Iterator[None]:
    """While the block runs, TensorBoard writes to `folder`/tensorboard and W&B to `folder`/wandb.

    TensorBoard's folder is read when the trainer is made, W&B's when it starts to train. Who has set
    TENSORBOARD_LOGGING_DIR or WANDB_DIR is not overruled. trackio keeps all runs in one place (TRACKIO_DIR), where
    `trackio show` finds them. quiet: what trackers and TRL's tables of completions would print is dropped.
    """
    wanted = {
        variable: str((folder / inside).absolute()) for t, (variable, inside) in _FOLDERS.items() if t in report_to
    }
    if quiet and "wandb" in report_to:
        wanted["WANDB_SILENT"] = "true"
    mine = [variable for variable in wanted if not os.environ.get(variable)]
    os.environ.update({variable: wanted[variable] for variable in mine})
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if quiet else nullcontext():
            yield
    finally:
        for variable in mine:
            os.environ.pop(variable, None)


def show_tree(trainer: Any, tree: "ReasoningTree", step: int) -> None:
    """Sends the tree's scores and texts to the trackers in `report_to`, through their own interfaces: TRL has none."""
    report_to = [name for name in trainer.args.report_to or () if name in PACKAGES]
    if not report_to:
        return
    text = tree_text(tree, trainer.args.credit_options())
    if "tensorboard" in report_to:
        for callback in trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                writer.add_text(KEY, "\n".join("    " + line for line in text.split("\n")), step)  # Markdown for code
    if "trackio" in report_to:
        import trackio

        if trackio.context_vars.current_run.get() is not None:
            fence = "~" * (4 + max(map(len, re.findall("~+", text)), default=0))  # no step can close it
            trackio.log({KEY: trackio.Markdown(f"{fence}\n{text}\n{fence}"), "train/global_step": step})
    if "wandb" in report_to:
        import wandb

        if wandb.run is not None:
            page = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
            wandb.log({KEY: page, "train/global_step": step})


def tree_text(tree: "ReasoningTree", options: Any) -> str:
    """The question, and the tree as `ibtpo score` prints it."""
    from .._text import visible
    from ..metrics import readable, tree_scores

    return f"{visible(tree.prompt.rstrip())}\n\n{readable(tree, tree_scores(tree, options))}"
