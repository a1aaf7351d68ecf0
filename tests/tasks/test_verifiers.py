"""Tasksets of the package verifiers: rows, rewards, and what is refused because it needs more than text."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ibtpo.errors import ConfigError, DataError, DependencyError
from ibtpo.tasks import verifiers
from ibtpo.tasks.problems import load_problems, verifier_for
from ibtpo.verify.pool import VerifierPool
from ibtpo.verify.verifiers import verifiers_reward

EXAMPLES = Path(__file__).parents[2] / "examples" / "packages"
needs_package = pytest.mark.skipif(
    find_spec("verifiers") is None, reason="needs the package verifiers (pip install 'ibtpo[verifiers]')"
)

MORE = """
import verifiers.v1 as vf
__all__ = ["Words"]
class T(vf.Task[vf.TaskData]):
    BODY
    @vf.reward
    async def good(self, REWARD) -> float:
        return 1.0
class Words(vf.Taskset[T]):
    def load(self):
        yield T(vf.TaskData(prompt="Hello."), self.config.task)
"""


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    verifiers.load_taskset.cache_clear()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers", None)
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(DependencyError, match=r"^verifiers:… needs the package 'verifiers.*ibtpo\[verifiers\]'$"):
        load_problems("verifiers:reverse_words")


@needs_package
def test_a_taskset_is_read_and_its_own_rewards_judge() -> None:
    problems = load_problems("verifiers:reverse_words")
    assert [problem.id for problem in problems] == ["reverse_words-0", "reverse_words-1", "reverse_words-2"]
    assert problems[1].prompt == [
        {"role": "system", "content": "Give the answer only."},
        {"role": "user", "content": "Reverse the word branch."},
    ]
    assert {verifier_for(problem) for problem in problems} == {"verifiers"}
    column = [problems[1].columns["verifiers"]] * 4
    answers = ["hcnarb", "<think>eert</think>\nhcnarb\n", "branch", "the answer is hcnarb"]
    assert verifiers_reward(answers, verifiers=column) == [1.5, 1.5, 0.5, 0.0]
    with VerifierPool("verifiers", workers=1) as pool:
        row = {"completion": "eert", "prompt": problems[0].prompt, **problems[0].columns}
        assert pool.score([row])[0].reward == 1.5
    assert len(load_problems("verifiers:reverse_words", limit=2)) == 2


@needs_package
def test_a_taskset_that_has_changed_is_an_error() -> None:
    (problem,) = load_problems("verifiers:reverse_words", limit=1)
    item = json.loads(problem.columns["verifiers"])
    for change in ({"index": 1}, {"index": 7}, {"key": "0"}):
        with pytest.raises(DataError, match="has another task number"):
            verifiers_reward(["x"], verifiers=[json.dumps({**item, **change})])


@needs_package
@pytest.mark.parametrize(
    ("body", "reward", "message"),
    [
        ("NEEDS_CONTAINER = True", "trace", "T needs a container; only tasks whose agent talks"),
        ("", "trace, runtime", "T has a reward that looks into its runtime; only tasks whose agent talks"),
    ],
)
def test_tasks_that_need_more_are_refused(
    body: str, reward: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"words_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(MORE.replace("BODY", body).replace("REWARD", reward))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        load_problems(f"verifiers:{name}")


@needs_package
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("verifiers:no_such_taskset", "verifiers:no_such_taskset cannot be loaded: ModuleNotFoundError"),
        ("verifiers:reverse_words,colour=red", "verifiers:reverse_words cannot be loaded: .*colour"),
        ("verifiers:", "cannot be read; write verifiers:NAME"),
    ],
)
def test_wrong_sources(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problems(source)
