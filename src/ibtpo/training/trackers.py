"""What the trackers named by `report_to` need from us: a folder for their files, and sample trees to show.

TRL sends its metrics and its tables of completions itself. Trees are sent from here: each time trees are written to the
run's folder, one of them goes as text to TensorBoard, trackio and W&B. A tracker's package is imported only if
`report_to` names it.
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

TRACKERS = ("tensorboard", "trackio", "wandb")  # those that can show a tree; each is its package's name, too
KEY = "ibtpo/tree"

# Trackers that would write outside the run's folder: the variable that says where, and the place in the run's folder.
_FOLDERS = {"tensorboard": ("TENSORBOARD_LOGGING_DIR", "tensorboard"), "wandb": ("WANDB_DIR", "")}


def check_installed(report_to: Sequence[str]) -> None:
    """Checks that the package of each tracker is installed, which is better known before a model is loaded.

    report_to: names of trackers.

    Raises `DependencyError` for the first one whose package is missing.
    """
    for name in report_to:
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            raise DependencyError(f"report_to {name} needs the package {name!r}: pip install {name}")


@contextmanager
def files_in(folder: Path, report_to: Sequence[str], quiet: bool = False) -> Iterator[None]:
    """Makes TensorBoard write to `folder`/tensorboard and W&B to `folder`/wandb while the block runs.

    Use it around making the trainer, when TensorBoard's folder is read, and around training, when W&B's is read. A user
    who has set TENSORBOARD_LOGGING_DIR or WANDB_DIR is not overruled. trackio keeps all runs in one place
    (TRACKIO_DIR), where `trackio show` finds them.

    folder: the run's folder.
    report_to: names of trackers.
    quiet: whether to drop what trackers and TRL's tables of completions would print.
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
    """Sends a tree's scores and texts to the trackers in `report_to`, through their own interfaces: TRL has none.

    trainer: the `IBTPOTrainer` whose `report_to`, credit options and callbacks are used.
    tree: the tree to show.
    step: the optimiser step under which it is shown.
    """
    report_to = [name for name in trainer.args.report_to or () if name in TRACKERS]
    if not report_to:
        return
    text = tree_text(tree, trainer.args.credit_options())
    if "tensorboard" in report_to:
        for callback in trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                # TensorBoard shows Markdown, in which indented lines are shown as they are.
                writer.add_text(KEY, "\n".join("    " + line for line in text.split("\n")), step)
    if "trackio" in report_to:
        import trackio

        if trackio.context_vars.current_run.get() is not None:
            # The fence is longer than any row of tildes in the text, so that no step can close the block.
            fence = "~" * (4 + max(map(len, re.findall("~+", text)), default=0))
            trackio.log({KEY: trackio.Markdown(f"{fence}\n{text}\n{fence}"), "train/global_step": step})
    if "wandb" in report_to:
        import wandb

        if wandb.run is not None:
            page = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
            wandb.log({KEY: page, "train/global_step": step})


def tree_text(tree: "ReasoningTree", options: Any) -> str:
    """The question, and below it the tree as `ibtpo score` prints it.

    options: the `CreditOptions` that the tree is scored with.
    """
    from .._text import visible
    from ..metrics import readable, tree_scores

    return f"{visible(tree.prompt.rstrip())}\n\n{readable(tree, tree_scores(tree, options))}"
