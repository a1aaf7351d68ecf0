"""Grows trees into a file. Each is on disk once it is whole, and a command that was stopped goes on from there."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from .._version import __version__
from ..errors import IBTPOError
from ..search import Prompt, TreeSearch, run_async
from ..storage.tree_file import TreeFile, check_same
from ..tree import ReasoningTree


def made_by(model: str, verifier: str, environment: str | None = None) -> dict[str, Any]:
    """What the meta of a stored tree says of its origin, the version of ibtpo among it.

    model: the model's name or folder.
    verifier: the verifier's name.
    environment: the dotted path of what answers turns, if anything does.
    """
    meta = {"ibtpo": __version__, "model": model, "verifier": verifier}
    return meta if environment is None else {**meta, "environment_factory": environment}


def grow_stored(
    search: TreeSearch,
    prompts: Sequence[Prompt],
    store: TreeFile | None,
    *,
    meta: Mapping[str, Any],
    resume: bool = False,
    on_tree: Callable[[ReasoningTree, bool], None] | None = None,
) -> None:
    """Sees to it that a file holds one tree a prompt: reads those that are there, grows the others and adds them.

    Once all are there, the file is finished, with the trees in the order of the prompts. No tree stays in memory.

    search: grows the trees; a stored tree must have been grown with its options.
    prompts: all prompts, those of stored trees included.
    store: the file, or None to keep no tree.
    meta: put into the meta of each tree that is grown, and compared with that of each stored one; see `made_by`.
    resume: whether to go on with what is there, or to start afresh.
    on_tree: called with each tree, after it is on disk, and whether it was grown now rather than read.

    Raises `ConfigError` for a stored tree that this search would not grow and for a file that another process writes,
    and what the search raises. The message of the latter says how many trees are kept; if none are, the unfinished file
    is removed.
    """
    with store.alone() if store else nullcontext():
        _grow_stored(search, prompts, store, meta, resume, on_tree)


def _grow_stored(
    search: TreeSearch,
    prompts: Sequence[Prompt],
    store: TreeFile | None,
    meta: Mapping[str, Any],
    resume: bool,
    on_tree: Callable[[ReasoningTree, bool], None] | None,
) -> None:
    done: set[str] = set()
    if store:
        for tree in store.open(resume=resume):
            check_same(tree, prompts, search.options, dict(meta), store.path)
            done.add(tree.id)
            if on_tree:
                on_tree(tree, False)

    def keep(tree: ReasoningTree) -> None:
        tree.meta.update(meta)
        if store:
            store.append(tree)
        done.add(tree.id)
        if on_tree:
            on_tree(tree, True)

    try:
        run_async(search.grow_each([p for p in prompts if p.id not in done], keep))
    except IBTPOError as e:
        if store is None:
            raise
        if not done:
            store.part.unlink()  # empty: nothing to go on with
            raise
        raise type(e)(f"{e}; {len(done)} of {len(prompts)} trees are kept, go on with --resume") from e
    if store:
        store.finish([p.id for p in prompts])
