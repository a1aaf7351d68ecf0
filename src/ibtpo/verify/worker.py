"""The child process of `pool.VerifierPool`: `python -m ibtpo.verify.worker PARENT_PID EXTRA NAME…`.

Requests and answers are pickles, each behind its length in 4 bytes. They go through the pipes that this process was
started with as standard input and output. Those pipes get other file descriptors first, and standard output is joined
to standard error, so that nothing that a reward function prints gets among the answers.

    child → parent   ("ready", None) or ("failed", "why")     once, after the imports
    parent → child   (R,) list of rows (dicts)                any number of times
    child → parent   ("begun", None)                          before their judgement
    child → parent   (R, F) list of (value or None, error or None), or ("unread", "why")

Each function is called once with all R rows: with one row, unless it is to be found out whether the function compares.
"""

import json
import os
import pickle
import signal
import struct
import sys
import threading
import time
from typing import Any, BinaryIO

from .._extras import load_object
from .._text import describe
from ..errors import IBTPOError
from . import BUILTIN, PROMPT_TEXT
from .outcome import Outcome, RewardFunction, call, count, to_outcome

HEADER = struct.Struct("<I")
_MEMORY_LIMIT = 8 << 30  # bytes of address space for built-in verifiers: an answer like 9^9^9^9 must not fill memory


def main(parent: int, extra: dict[str, Any], names: list[str]) -> None:
    """Judges rows until the parent closes the pipe or is gone. The head of this file lists the messages.

    parent: the process id of the parent.
    extra: keyword arguments for functions of this package: their tags, see `tags.final_text`, and `verifier_timeout`.
    names: (F,) the reward functions, see `load`.
    """
    requests, answers = _take_pipes()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    try:
        functions = [load(name) for name in names]
        if set(names) <= set(BUILTIN):  # others may hold a GPU, which needs more address space than there is memory
            _limit_memory()
    except BaseException as error:
        _send(answers, ("failed", str(error) if isinstance(error, IBTPOError) else describe(error)))
        return
    _send(answers, ("ready", None))
    while header := requests.read(HEADER.size):
        body = requests.read(HEADER.unpack(header)[0])
        _send(answers, ("begun", None))
        try:
            rows = pickle.loads(body)
        except Exception as error:
            _send(answers, ("unread", f"the row could not be read: {describe(error)}"))
            continue
        columns = [_judge(function, rows, extra) for function in functions]
        _send(answers, [list(outcomes) for outcomes in zip(*columns, strict=True)])


def load(name: str) -> RewardFunction:
    """The reward function that a name stands for; a built-in one is made ready for use.

    name: a built-in name or a dotted path, `package.module:function` or `package.module.function`.

    Raises `ConfigError` for a function that cannot be loaded.
    """
    function: RewardFunction = load_object(BUILTIN.get(name, name), "reward function")
    prepare = getattr(sys.modules[function.__module__], "prepare", None) if name in BUILTIN else None
    if prepare is not None:
        prepare()
    return function


def _judge(function: RewardFunction, rows: list[dict[str, Any]], extra: dict[str, Any]) -> list[Outcome]:
    """What one function says of (R,) rows: (R,) values, or why there are none. It never raises an `Exception`."""
    own = function.__module__.startswith(f"{__package__}.")
    if own:
        rows = [{**row, "prompt": row.get(PROMPT_TEXT, row.get("prompt"))} for row in rows]
    try:
        values = call(function, rows, extra if own else None)
    except Exception as error:
        return [(None, describe(error))] * len(rows)
    if len(values) != len(rows):
        return [(None, f"returned {count(len(values), 'value')} for {count(len(rows), 'row')}")] * len(rows)
    return [to_outcome(value) for value in values]


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes for requests and for answers, moved away from standard input and output."""
    requests, answers = os.dup(0), os.dup(1)  # dup makes them non-inheritable: a grandchild cannot hold them open
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # the parent has no standard error
        os.dup2(nothing, 1)
    # Line by line: Python writes to a pipe in blocks, and the last one would be lost when this process is killed.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb", buffering=0)


def _send(answers: BinaryIO, message: Any) -> None:
    """Writes a message to the parent; ends this process if the parent is gone."""
    body = pickle.dumps(message)
    try:
        data = memoryview(HEADER.pack(len(body)) + body)
        while data:
            data = data[answers.write(data) :]
    except BrokenPipeError:
        os._exit(0)  # there is nobody to tell any more


def _die_with(parent: int) -> None:
    """Ends this process and what it started when the parent is gone, even from within a function that hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _limit_memory() -> None:
    """Limits the memory of this process, where the system allows it."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(_MEMORY_LIMIT, hard)
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, ValueError, OSError):
        return  # without a limit the row's deadline still holds


if __name__ == "__main__":
    # Under `-m` this module is called __main__. The work is done by the copy that is imported under its real name, so
    # that pickles and reward functions that import the module meet the same one.
    from . import worker

    worker.main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])
    sys.stderr.flush()
    os._exit(0)  # nothing to clean up, and a reward function's threads must not keep this process alive
