"""Reward functions that misbehave, each with the error that it must give."""

import time
from collections.abc import Callable
from typing import Any

# Functions that run in a child process: what it does, its body, and the error; None means that the reward must be 1.0.
VERIFIERS: list[tuple[str, str, str | None]] = [
    ("raises", "raise ValueError('no such unit')", r"reward: ValueError: no such unit"),
    ("raises what cannot be shown", "class E(Exception):\n  __str__ = lambda s: 1/0\n raise E", r"reward: E$"),
    ("asserts", "assert False", r"reward: AssertionError"),
    ("recurses", "return reward(**k)", r"reward: RecursionError"),
    ("runs out of memory", "raise MemoryError", r"reward: MemoryError"),
    ("hangs", "time.sleep(60)", r"timed out after 0\.3 s"),
    ("spins", "while True: pass", r"timed out after 0\.3 s"),
    ("hangs with signals off", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", r"timed out after 0\.3 s"),
    ("exits", "os._exit(3)", r"the verifier process exited with code 3"),
    ("calls sys.exit", "sys.exit(4)", r"exited with code 4|SystemExit"),
    ("is killed", "os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL"),
    ("crashes", "os.kill(os.getpid(), signal.SIGSEGV)", r"killed by SIGSEGV"),
    ("interrupts", "raise KeyboardInterrupt", r"exited|Keyboard|killed"),
    ("closes its files", "os.closerange(0, 64); return [1.0]", r"closed its pipe|exited with code"),
    ("gives None", "return None", r"reward: TypeError: returned NoneType, expected a list"),
    ("gives a number", "return 1.0", r"reward: TypeError: returned float, expected a list"),
    ("gives text", "return '1'", r"reward: TypeError: returned str, expected a list"),
    ("gives an object", "return {'reward': 1.0}", r"reward: TypeError: returned dict, expected a list"),
    ("gives a generator", "return (x for x in [1.0])", r"reward: TypeError: returned generator, expected a list"),
    ("gives nothing", "return []", r"reward: returned 0 values for 1 row"),
    ("gives two values", "return [1.0, 0.0]", r"reward: returned 2 values for 1 row"),
    ("gives a None", "return [None]", r"reward: returned None"),
    ("gives a NaN", "return [float('nan')]", r"reward: returned nan"),
    ("gives infinity", "return [float('inf')]", r"reward: returned inf, expected a finite number"),
    ("gives 1e308", "return [1e308]", r"reward: returned 1e\+308, expected a number within"),
    ("gives 10**400", "return [10**400]", r"reward: .*OverflowError"),
    ("gives a text", "return ['1.0']", r"reward: returned str '1\.0', expected a number"),
    ("gives a list", "return [[1.0]]", r"reward: returned list \[1\.0\], expected a number"),
    ("gives a long text", "return ['x' * 100_000]", r"reward: returned str 'xxx.{200,400}…, expected a number"),
    ("gives a complex", "return [1j]", r"reward: returned complex 1j, expected a number"),
    ("gives true", "return [True]", None),
    ("gives a tuple", "return (1.0,)", None),
    ("prints garbage", "print('\\x00' * 100_000, flush=True); os.write(1, b'\\xff' * 9); return [1.0]", None),
    ("reads its input", "assert sys.stdin.read() == ''; return [1.0]", None),
    ("changes folder and time", "os.chdir('/'); time.time = lambda: 0; return [1.0]", None),
    ("gets 100 kB", "return [float(len(k['completions'][0]) == 100_000)]", None),
]  # fmt: skip

# --- functions that run in this process, and get eight rows at once -------------------------------------------------

ROWS = 8


def _hang(**_: Any) -> list[float]:

    time.sleep(3)
    return [1.0] * ROWS


def _raise(**_: Any) -> list[float]:
    raise ValueError("no such unit")


def _exit(**_: Any) -> list[float]:
    raise SystemExit(3)


def _drop_the_last(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * (len(completions) - (len(completions) > 1))


# What it does, the function, and the error; None means that the reward must be 1.0.
IN_PROCESS: list[tuple[str, Callable[..., Any], str | None]] = [
    ("raises", _raise, r"_raise: ValueError: no such unit"),
    ("exits", _exit, r"_exit: SystemExit: 3"),
    ("hangs", _hang, r"_hang: timed out after \d+\.\d+ s"),
    ("gives 7 values for 8 rows", lambda **_: [1.0] * 7, r"returned 7 values for 8 rows"),
    ("gives 9 values for 8 rows", lambda **_: [1.0] * 9, r"returned 9 values for 8 rows"),
    ("gives 7 for 8 but one for one", _drop_the_last, None),
    ("gives None", lambda **_: None, r"returned NoneType, expected a list"),
    ("gives a number", lambda **_: 1.0, r"returned float, expected a list"),
    ("gives only None", lambda **_: [None] * ROWS, r"returned None"),
    ("gives only NaN", lambda **_: [float("nan")] * ROWS, r"returned nan"),
    ("gives infinity", lambda **_: [float("-inf")] * ROWS, r"returned -inf, expected a finite number"),
    ("gives 1e300", lambda **_: [1e300] * ROWS, r"returned 1e\+300, expected a number within"),
    ("gives texts", lambda **_: ["1"] * ROWS, r"returned str '1', expected a number"),
    ("gives lists", lambda **_: [[1.0]] * ROWS, r"returned list \[1\.0\], expected a number"),
    ("takes other arguments", lambda completion: [1.0] * ROWS, r"TypeError: .*unexpected keyword argument"),
    ("gives booleans", lambda **_: [True] * ROWS, None),
]
