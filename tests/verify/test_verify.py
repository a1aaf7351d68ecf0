"""Verifiers: what counts as right, and what a function that hangs, crashes or lies costs."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ibtpo.errors import ConfigError, VerifierError
from ibtpo.verify import Verdict
from ibtpo.verify.outcome import combine
from ibtpo.verify.pool import VerifierPool
from ibtpo.verify.rewards import RewardFunctions


def row(kind: str = "ok", **columns: object) -> dict[str, object]:
    return {"prompt": "p", "completion": "c", "completion_ids": [1, 2], "kind": kind, **columns}


MISBEHAVING = """
    import os, signal, subprocess, sys, time

    def reward(prompts, completions, completion_ids, kind, **columns):
        k = kind[0]
        print("noise on standard output", flush=True)
        if k == "hang": time.sleep(60)
        if k == "spin":
            while True: pass
        if k == "exit": os._exit(3)
        if k == "sysexit": sys.exit(4)
        if k == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
        if k == "raise": raise ValueError("bad row")
        if k == "echo": return [columns["number"][0] + len(completion_ids[0])]
        if k == "pid": return [os.getpid()]
        if k == "grandchild":
            with open(columns["path"][0], "w") as file: file.write(str(subprocess.Popen(["sleep", "60"]).pid))
            time.sleep(60)
        return {"ok": [1.0], "none": [None], "nan": [float("nan")], "inf": [float("inf")], "text": ["1.0"],
                "two": [1.0, 0.0], "empty": [], "scalar": 1.0, "true": [True], "list": [[1.0]]}[k]

    async def later(prompts, completions, **columns):
        return [0.25]

    def half(completions, **columns):
        return [0.5 if columns["kind"][0] != "none" else None]

    NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "misbehaving.py").write_text(textwrap.dedent(MISBEHAVING))
    monkeypatch.syspath_prepend(tmp_path)
    return "misbehaving"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_dead(pids: list[int], seconds: float = 10.0) -> list[int]:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def test_every_failure_is_the_verdict_of_its_own_row(module: str) -> None:
    expected = {
        "ok": Verdict(1.0, (1.0,)),
        "true": Verdict(1.0, (1.0,)),
        "raise": Verdict(None, (None,), "reward: ValueError: bad row"),
        "none": Verdict(None, (None,), "reward: returned None"),
        "nan": Verdict(None, (None,), "reward: returned nan"),
        "inf": Verdict(None, (None,), "reward: returned inf, expected a finite number"),
        "text": Verdict(None, (None,), "reward: returned str '1.0', expected a number or None"),
        "list": Verdict(None, (None,), "reward: returned list [1.0], expected a number or None"),
        "two": Verdict(None, (None,), "reward: returned 2 values for 1 row"),
        "empty": Verdict(None, (None,), "reward: returned 0 values for 1 row"),
        "scalar": Verdict(
            None, (None,), "reward: TypeError: returned float, expected a list with one number or None a row"
        ),
        "hang": Verdict(None, (None,), "timed out after 0.3 s"),
        "spin": Verdict(None, (None,), "timed out after 0.3 s"),
        "exit": Verdict(None, (None,), "the verifier process exited with code 3"),
        "sysexit": Verdict(None, (None,), "the verifier process exited with code 4"),
        "segfault": Verdict(None, (None,), "the verifier process was killed by SIGSEGV"),
    }
    with VerifierPool(f"{module}:reward", workers=2, timeout=0.3) as pool:
        assert pool.names == ("reward",)
        verdicts = pool.score([row(kind) for kind in expected] + [row("ok")])
    assert dict(zip(expected, verdicts, strict=False)) == expected
    assert verdicts[-1] == Verdict(1.0, (1.0,))


def test_rows_that_are_scored_together_share_one_call_and_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "places.py").write_text(
        "import time\n"
        "def place(completions, **columns):\n"
        "    if 'hang' in completions: time.sleep(60)\n"
        "    if 'raise' in completions: raise ValueError('no')\n"
        "    return list(range(len(completions)))\n"
        "def size(completions, **columns):\n"
        "    return [len(completions)] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fine, bad, slow = ({"prompt": "p", "completion": text} for text in ("fine", "raise", "hang"))
    with VerifierPool(["places:place", "places:size"], workers=1, timeout=0.2) as pool:
        assert pool.may_compare
        assert [v.per_function for v in pool.score_together([fine, fine])] == [(0.0, 2.0), (1.0, 2.0)]
        assert [v.per_function for v in pool.score([fine, fine])] == [(0.0, 1.0), (0.0, 1.0)]
        assert pool.score_together([fine, bad]) == [Verdict(None, (None, 2.0), "place: ValueError: no")] * 2
        assert pool.score_together([fine, slow]) == [Verdict(None, (None, None), "timed out after 0.4 s")] * 2
        assert pool.score_together([fine]) == [Verdict(1.0, (0.0, 1.0))]
    assert not VerifierPool("math").may_compare


def test_scores_keep_the_order_of_rows_over_workers_threads_and_coroutines(module: str) -> None:
    rows = [row("echo", number=number) for number in range(60)]
    wanted = [float(number + 2) for number in range(60)]

    async def one_by_one(pool: VerifierPool) -> list[float | None]:
        found = await asyncio.gather(*(pool.ascore([item]) for item in rows))
        return [verdict.reward for (verdict,) in found]

    with VerifierPool(f"{module}.reward", workers=2) as pool:
        assert [verdict.reward for verdict in pool.score(rows)] == wanted
        assert asyncio.run(one_by_one(pool)) == wanted
        found: dict[int, list[float | None]] = {}
        threads = [
            threading.Thread(target=lambda n=n: found.update({n: [v.reward for v in pool.score(rows[n:])]}))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {n: wanted[n:] for n in range(4)}
        assert pool.score([]) == []


def test_a_row_larger_than_a_pipe_and_one_that_cannot_be_sent(module: str) -> None:
    with VerifierPool(f"{module}:reward", workers=1) as pool:
        large, unsendable = pool.score([row("ok", text="x" * 2_000_000), row("ok", lock=threading.Lock())])
    assert large.reward == 1.0
    assert unsendable.reward is None
    assert "cannot be sent to a child process: TypeError" in str(unsendable.error)


def test_several_rewards_are_summed_by_weight_and_none_is_left_out(module: str) -> None:
    names = [f"{module}:reward", f"{module}:half", f"{module}:later"]
    with VerifierPool(names, weights=[1, 2, 4], workers=1) as pool:
        assert pool.names == ("reward", "half", "later")
        ok, none, nan, raised = pool.score([row("ok"), row("none"), row("nan"), row("raise")])
    assert ok == Verdict(3.0, (1.0, 0.5, 0.25))
    assert none == Verdict(1.0, (None, None, 0.25))
    assert nan == Verdict(2.0, (None, 0.5, 0.25))
    assert raised == Verdict(None, (None, 0.5, 0.25), "reward: ValueError: bad row")


def test_built_in_names_and_dotted_paths_are_checked(module: str) -> None:
    with pytest.raises(ConfigError, match="unknown reward 'maths'; did you mean 'math'"):
        VerifierPool("maths")
    with pytest.raises(ConfigError, match="1 weight for 2 reward functions"):
        VerifierPool(["math", "choice"], weights=[1.0])
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"):
        VerifierPool("math", workers=0)
    with pytest.raises(ConfigError, match="running script"):
        VerifierPool("__main__:f")
    with pytest.raises(ConfigError, match="got function; RewardFunctions takes functions"):
        VerifierPool([row])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="timeout must be a positive number"):
        VerifierPool("math", timeout=0)


def test_a_dotted_path_may_have_a_colon_or_a_dot_before_the_function(module: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "tasks.py").write_text((tmp_path / "misbehaving.py").read_text())
    for name in (f"{module}:half", f"{module}.half", "package.tasks:half", "package.tasks.half"):
        with VerifierPool(name, workers=1) as pool:
            assert (pool.names, pool.score([row()])) == (("half",), [Verdict(0.5, (0.5,))])


def test_a_reward_that_cannot_be_imported_is_an_error_for_the_caller(module: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import missing_package_xyz\n")
    (tmp_path / "dying.py").write_text("import os\nos._exit(7)\n")
    for name, message in [
        ("nowhere_xyz:f", "ModuleNotFoundError: No module named 'nowhere_xyz'"),
        (f"{module}:missing", "'missing' does not exist in module 'misbehaving'"),
        (f"{module}:NUMBER", "'NUMBER' is int, not callable"),
        ("broken:f", "missing_package_xyz.*broken.py:1"),
        ("dying:f", "exited with code 7 while importing the reward function 'dying:f'"),
    ]:
        with VerifierPool(name, workers=2) as pool:
            for _ in range(2):
                with pytest.raises(VerifierError, match=message):
                    pool.score([row(), row(), row()])
    # mended on disk, the same pool goes on
    with VerifierPool("broken:f", workers=1) as pool:
        with pytest.raises(VerifierError):
            pool.score([row()])
        (tmp_path / "broken.py").write_text("def f(completions, **columns):\n    return [0.0]  # now it is fine\n")
        assert pool.score([row()]) == [Verdict(0.0, (0.0,))]


def test_close_leaves_no_children_and_refuses_more_rows(module: str) -> None:
    pool = VerifierPool(f"{module}:reward", workers=2)
    pids = {int(verdict.reward or 0) for verdict in pool.score([row("pid")] * 20)}
    assert all(map(alive, pids))
    pool.close()
    pool.close()
    assert wait_until_dead(list(pids)) == []
    with pytest.raises(VerifierError, match="closed"):
        pool.score([row()])


def test_close_ends_a_call_in_another_thread(module: str) -> None:
    pool = VerifierPool(f"{module}:reward", workers=1, timeout=60)
    pool.score([row()])
    caught: list[BaseException] = []

    def hang() -> None:
        try:
            pool.score([row("hang")])
        except VerifierError as error:
            caught.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    time.sleep(0.2)
    pool.close()
    thread.join(10)
    assert "closed" in str(caught[0])


def test_a_child_that_died_between_rows_is_replaced_without_blame(module: str) -> None:
    with VerifierPool(f"{module}:reward", workers=1) as pool:
        pid = int(pool.score([row("pid")])[0].reward or 0)
        os.kill(pid, signal.SIGKILL)
        # At once: the child may be dying, dead or unnoticed when the row is handed to it.
        assert pool.score([row()]) == [Verdict(1.0, (1.0,))]


def test_what_a_reward_started_dies_with_it_at_the_deadline(module: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with VerifierPool(f"{module}:reward", workers=1, timeout=0.5) as pool:
        assert pool.score([row("grandchild", path=str(path))])[0].error == "timed out after 0.5 s"
    assert wait_until_dead([int(path.read_text())]) == []


@pytest.mark.parametrize("kind", ["ok", "spin"])
def test_children_end_when_the_parent_is_killed_at_once(module: str, tmp_path: Path, kind: str) -> None:
    script = tmp_path / "script.py"  # without a __main__ guard, on purpose
    script.write_text(
        "import sys\n"
        "from ibtpo.verify.pool import VerifierPool\n"
        "row = {'prompt': 'p', 'completion': 'c', 'completion_ids': [1]}\n"
        "pool = VerifierPool('misbehaving:reward', workers=1, timeout=60)\n"
        "print('child', int(pool.score([{**row, 'kind': 'pid'}])[0].reward), flush=True)\n"
        f"pool.score([{{**row, 'kind': {kind!r}}}])\n"
        "print('scored', flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    lines = [parent.stdout.readline()]  # the function's own prints are not here: they go to standard error
    if kind == "ok":
        lines.append(parent.stdout.readline())
        assert lines[1] == "scored\n"
    else:
        time.sleep(0.3)
    word, child = lines[0].split()
    assert word == "child"
    parent.kill()
    parent.communicate()
    assert wait_until_dead([int(child)]) == []


def ones(completions: list[str], **columns: object) -> list[float]:
    return [1.0] * len(completions)


def test_in_process_functions_see_trl_s_arguments_and_extra_ones() -> None:
    seen: dict[str, object] = {}

    def spy(
        prompts: object, completions: object, completion_ids: object, answer: object, trainer_state: object
    ) -> list:
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, answer=answer, state=trainer_state)
        return [0.0, 1]

    rows = [{"prompt": "p", "completion": letter, "completion_ids": [1], "answer": letter} for letter in "ab"]
    verdicts = RewardFunctions(spy, extra={"trainer_state": "state"}).score(rows)
    assert verdicts == [Verdict(0.0, (0.0,)), Verdict(1.0, (1.0,))]
    assert seen == {
        "prompts": ["p", "p"],
        "completions": ["a", "b"],
        "ids": [[1], [1]],
        "answer": ["a", "b"],
        "state": "state",
    }


def test_in_process_functions_may_be_async_weighted_and_called_from_a_loop() -> None:
    async def later(completions: list[str], **columns: object) -> list[float | None]:
        await asyncio.sleep(0)
        return [None, 0.5]

    with RewardFunctions([ones, later], weights=[1, 2]) as functions:
        assert functions.names == ("ones", "later")
        assert asyncio.run(functions.ascore([row(), row()])) == [Verdict(1.0, (1.0, None)), Verdict(2.0, (1.0, 0.5))]
        assert functions.score([]) == []


def test_in_process_a_raise_is_every_row_s_error_and_odd_values_are_their_row_s() -> None:
    def broken(completions: list[str], **columns: object) -> list[float]:
        raise KeyError("answer")

    assert (
        RewardFunctions([ones, broken]).score([row()] * 2)
        == [Verdict(None, (1.0, None), "broken: KeyError: 'answer'")] * 2
    )

    def odd(completions: list[str], **columns: object) -> list[object]:
        return [1.0, None, float("nan"), float("-inf"), "x", True]

    assert [(v.reward, v.error) for v in RewardFunctions(odd).score([row()] * 6)] == [
        (1.0, None),
        (None, "odd: returned None"),
        (None, "odd: returned nan"),
        (None, "odd: returned -inf, expected a finite number"),
        (None, "odd: returned str 'x', expected a number or None"),
        (1.0, None),
    ]


def test_in_process_seven_values_for_eight_rows_are_asked_for_again_row_by_row() -> None:
    def drops_bad(completions: list[str], kind: list[str], **columns: object) -> list[float]:
        return [1.0 for k in kind if k == "ok"]

    verdicts = RewardFunctions(drops_bad).score([row("ok")] * 3 + [row("bad")] + [row("ok")] * 4)
    assert [verdict.reward for verdict in verdicts] == [1.0] * 3 + [None] + [1.0] * 4
    assert verdicts[3].error == "drops_bad: returned 7 values for 8 rows"


def test_in_process_three_hung_calls_end_scoring_with_advice() -> None:
    def hang(completions: list[str], **columns: object) -> list[float]:
        time.sleep(30)
        return []

    functions = RewardFunctions(hang, timeout=0.05)
    for _ in range(3):
        verdicts = functions.score([row(), row()])
        assert [verdict.reward for verdict in verdicts] == [None, None]
        assert str(verdicts[0].error).startswith("hang: timed out after 0.1")
    with pytest.raises(VerifierError, match=r"3 reward calls hung for more than 0\.05 s an answer.*VerifierPool"):
        functions.score([row()])


def test_in_process_functions_run_on_the_caller_s_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    devices = threading.local()  # as in CUDA, each thread has its own, which starts at 0
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(devices, "current", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(devices, "current", device))
    torch.cuda.set_device(3)

    def device(completions: list[str], **columns: object) -> list[float]:
        return [float(torch.cuda.current_device())]

    with RewardFunctions(device) as functions:
        assert functions.score([row()])[0].reward == 3.0
        assert asyncio.run(functions.ascore([row()]))[0].reward == 3.0


def test_in_process_what_is_no_reward_function_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="Linear is a model, not a reward function; wrap it in a function"):
        RewardFunctions(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="'math' is a name"):
        RewardFunctions("math")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be callable, got int"):
        RewardFunctions([3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="no reward function"):
        RewardFunctions([])


def test_combining_ignores_none_and_nan_but_not_failures() -> None:
    names, weights = ("a", "b"), (1.0, 10.0)
    assert combine([(1.0, None), (None, None)], names, weights) == Verdict(1.0, (1.0, None))
    assert combine([(float("nan"), None), (0.5, None)], names, weights) == Verdict(5.0, (None, 0.5))
    assert combine([(1.0, None), (None, "broke")], names, weights) == Verdict(None, (1.0, None), "b: broke")
    assert combine([(None, None)] * 2, names, weights).error == "a: returned None; b: returned None"
