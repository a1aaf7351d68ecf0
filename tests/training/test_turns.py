"""Tools and environments in training: TRL's arguments, TRL's batches on star trees, and trees of turns."""

import asyncio
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from transformers.utils import get_json_schema  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

import ibtpo.training.rollouts  # noqa: E402
from helpers.tool_model import Script, ScriptEngine, call, make_tool_model  # noqa: E402
from helpers.training import QUIET  # noqa: E402
from ibtpo.errors import ConfigError  # noqa: E402
from ibtpo.training.config import IBTPOConfig  # noqa: E402
from ibtpo.training.trainer import IBTPOTrainer  # noqa: E402

warnings.filterwarnings("ignore", message="You are using 'environment_factory'")

OPTIONS: dict[str, Any] = {
    **QUIET,
    "num_generations": 8,
    "per_device_train_batch_size": 16,
    "max_completion_length": 500,
    "max_steps": 1,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "beta": 0.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "bf16": False,
    "shuffle_dataset": False,
    "max_tool_calling_iterations": 2,
    "mask_truncated_completions": True,
    "loss_type": "grpo",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tool_model(tmp_path_factory.mktemp("tool_model"))


@pytest.fixture(scope="module")
def data() -> Dataset:
    questions = [{"prompt": [{"role": "user", "content": f"Question {i}."}], "start": i} for i in range(2)]
    return Dataset.from_list(questions)


# --- tools and environments as TRL has them


def multiply(a: int, b: int) -> int:
    """
    Multiplies.

    Args:
        a: one number
        b: another
    """
    return a * b


async def wait(seconds: float) -> str:
    """
    Waits.

    Args:
        seconds: how long
    """
    await asyncio.sleep(seconds)
    return "waited"


def refuse(why: str) -> str:
    """
    Fails.

    Args:
        why: the reason
    """
    raise ValueError(why)


def talk(words: int) -> str:
    """
    Says much.

    Args:
        words: how many words
    """
    return "word " * words


class Box:
    """An environment of TRL's kind: numbers are put into it."""

    def reset(self, start: int = 0, **row: Any) -> str:
        """Starts with a number."""
        self.total = int(start)
        return f" It holds {start}."

    def put(self, number: int) -> str:
        """
        Puts a number into the box.

        Args:
            number: the number
        """
        self.total += number
        return f"{self.total} in it"

    def get_reward(self) -> float:
        return float(self.total)


class Safe(Box):
    """Another environment, which shows no reward of its own, and other tools."""

    get_reward = None  # type: ignore[assignment]

    def open(self, code: str) -> str:
        """
        Opens the safe.

        Args:
            code: its code
        """
        return f"{code} is wrong"


BY_NAME = Dataset.from_list([{"environment": "box", "start": 3}, {"environment": "safe", "start": 4}])

FIRST = (
    call("multiply", a=2, b=21),
    "No tools.",
    call("nothing", a=1) + call("multiply", a=1, b=2),
    call("refuse", why="not today") + call("wait", seconds=0.0) + call("multiply", a=3, b=3),
    '<tool_call>\n{"name": "multiply", "arguments": {"a"\n</tool_call>',
    call("multiply", a=5, b=5) + "and so on " * 60,
    call("talk", words=80),
    call("put", number=7) + call("multiply", a="x", c=0),
)


def script(text: str, number: int) -> str:
    """Eight different first turns; then a tool call more, and at last an answer."""
    answers = text.count("<tool_response>")
    if answers == 0:
        return f"{number} " + FIRST[number % 8]
    if answers < 4:
        return "Again. " + call("put", number=answers)
    return "Done."


def length(completions: Any, **columns: Any) -> list[float]:
    """How much was said, by the model and its tools."""
    return [sum(len(m.get("content") or "") % 97 for m in c) / 10 for c in completions]


def held(environments: Any, start: Any, **columns: Any) -> list[float]:
    """What is in the boxes, beyond what was there."""
    return [float(e.total - s) for e, s in zip(environments, start, strict=True)]


class Keeping:
    """A trainer that keeps what the loss was computed of."""

    script: Script

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.output = super()._generate_and_score_completions(inputs)
        return self.output

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.loss = super()._compute_loss(model, inputs)
        return self.loss


class Theirs(Keeping, GRPOTrainer):
    """TRL's trainer, which samples from a script."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        return [self.script.sample(ids, self.max_completion_length) for ids in prompt_ids], None


class Ours(Keeping, IBTPOTrainer):
    """Ours."""


def train(cls: Any, model: Path, data: Dataset, out: Path, monkeypatch: Any, turn: Any = script, **kwargs: Any) -> Any:
    """A trainer after one step of training."""
    options = {**OPTIONS, **kwargs.pop("options", {})}
    tokenizer = AutoTokenizer.from_pretrained(model)
    spoken = Script(tokenizer, turn)
    cls.script = spoken
    engine = ScriptEngine(spoken)
    monkeypatch.setattr(ibtpo.training.rollouts, "policy_engine", lambda trainer, model: engine)
    rewards = kwargs.pop("rewards", [length])
    rewards = rewards and list(rewards)  # TRL appends the reward of an environment to the list
    if issubclass(cls, IBTPOTrainer):
        args: Any = IBTPOConfig(str(out), **options)
    else:
        args = GRPOConfig(str(out), **{k: v for k, v in options.items() if k != "save_trees_every"})
    trainer = cls(str(model), rewards, args, data, processing_class=tokenizer, **kwargs)
    trainer.train()
    return trainer


@pytest.mark.thorough
@pytest.mark.parametrize(
    "kwargs",
    [
        {"tools": [multiply, wait, refuse, talk]},
        {"tools": [multiply, wait, refuse, talk], "environment_factory": Box, "rewards": [length, held]},
        {"environment_factory": Box, "rewards": None},
        {"environment_factory": {"box": Box, "safe": Safe}, "data": BY_NAME},  # rows without a prompt
        {"environment_factory": Box, "rewards": None, "data": None},  # no rows at all
    ],
)
def test_star_trees_give_trls_batch_loss_and_metrics(
    model: Path, data: Dataset, tmp_path: Path, monkeypatch: Any, kwargs: dict[str, Any]
) -> None:
    star = {"branching": "independent", "advantage": "grpo", "packed_tokens": 0}
    kwargs = dict(kwargs)
    data = kwargs.pop("data", data)
    theirs = train(Theirs, model, data, tmp_path / "a", monkeypatch, **dict(kwargs))
    ours = train(Ours, model, data, tmp_path / "b", monkeypatch, options=star, **dict(kwargs))
    rewards = list(theirs._logs["rewards"])
    for name in rewards:
        np.testing.assert_allclose(ours._logs["rewards"][name], theirs._logs["rewards"][name], rtol=1e-6)  # NaN is NaN
    for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask"):
        assert torch.equal(ours.output[key], theirs.output[key]), key
    mask = theirs.output["completion_mask"] * theirs.output["tool_mask"]
    assert 0 < mask.sum() < theirs.output["completion_mask"].sum()  # there are observations
    expected = theirs.output["advantages"][:, None] * mask
    torch.testing.assert_close(ours.output["advantages"] * mask, expected, atol=1e-5, rtol=1e-5)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-6, rtol=1e-5)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    for name in (
        "tools/call_frequency", "tools/failure_frequency", "completions/mean_length", "completions/max_length",
        "completions/clipped_ratio", "completions/mean_terminated_length", "num_tokens", "reward",
    ):  # fmt: skip
        a, b = ([row[name] for row in t.state.log_history if name in row] for t in (ours, theirs))
        assert a == pytest.approx(b), name
    assert list(ours._logs["prompt"]) == list(theirs._logs["prompt"])
    assert list(ours._logs["completion"]) == list(theirs._logs["completion"])


class Count:
    """An environment that answers turns itself: it counts letters, and is silent after two turns."""

    live = 0
    made = 0

    def __init__(self) -> None:
        type(self).live += 1
        type(self).made += 1

    def reset(self, prompt: Any, **row: Any) -> str:
        """The question ends with a letter that the prompt has not."""
        self.turns, self.letters = 0, 0
        return "c" if "a" in prompt else "d"

    def respond(self, message: dict[str, Any]) -> str | None:
        """Says how many letters a there were so far."""
        self.turns += 1
        self.letters += message["content"].count("a")
        return None if self.turns > 2 else "bj"[self.letters % 2] * (1 + self.letters % 3)

    def get_reward(self) -> float:
        return float(self.letters % 2)

    def fork(self) -> "Count":
        """Another in the same state."""
        twin = type(self)()
        twin.turns, twin.letters = self.turns, self.letters
        return twin

    def close(self) -> None:
        """Counts those that are left."""
        type(self).live -= 1


class Itself(Box):
    """The box as an environment that answers turns, and calls its tool itself."""

    tool_schemas = (get_json_schema(Box().put),)

    def respond(self, message: dict[str, Any]) -> Any:
        """Reads the tool calls of a turn."""
        numbers = [made["function"]["arguments"]["number"] for made in message.get("tool_calls") or ()]
        return [{"role": "tool", "name": "put", "content": self.put(number)} for number in numbers]


def test_tools_that_an_environment_calls_itself_give_the_same_batch_as_tools(
    model: Path, data: Dataset, tmp_path: Path, monkeypatch: Any
) -> None:
    def turn(text: str, number: int) -> str:
        return "Done." if text.count("<tool_response>") > 1 else f"{number} " + call("put", number=number % 5) * 2

    def batch(factory: Any) -> Any:
        return train(
            Ours, model, data, tmp_path / factory.__name__, monkeypatch, turn, environment_factory=factory, rewards=None
        )

    tools, itself = batch(Box), batch(Itself)
    for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages"):
        assert torch.equal(itself.output[key], tools.output[key]), key
    assert "Puts a number into the box." in itself._tokenizer.decode(itself.output["prompt_ids"][0])
    assert 0 < itself.output["tool_mask"].float().mean() < 1
    assert [tree.to_dict()["nodes"] for tree in itself.trees] == [tree.to_dict()["nodes"] for tree in tools.trees]


PLAIN: dict[str, Any] = {
    **OPTIONS, "max_completion_length": 40, "num_generations": 6, "per_device_train_batch_size": 12,
    "mask_truncated_completions": False, "splitter": "tokens:4", "max_tool_calling_iterations": None,
}  # fmt: skip
LETTERS = Dataset.from_list([{"prompt": "abc"[i % 3] + "defg"[i % 4] + "hij"} for i in range(12)])


def letters(tiny_model: Path, out: Path, cls: Any = Ours, **options: Any) -> Any:
    """A trainer of the tiny model with `Count`, after its steps."""
    trainer = cls(
        str(tiny_model), None, IBTPOConfig(str(out), **{**PLAIN, **options}), LETTERS, environment_factory=Count
    )
    trainer.train()
    return trainer


def test_trees_of_turns_train_with_shared_prefixes_as_without_and_leave_no_environment(
    tiny_model: Path, tmp_path: Path
) -> None:
    Count.live = 0
    packed = letters(tiny_model, tmp_path / "a", max_environments=9)
    assert Count.live == 0
    plain = letters(tiny_model, tmp_path / "b", packed_tokens=0)
    assert Count.live == 0
    assert packed._packed.disabled is None
    for row in packed.state.log_history[:-1]:
        parts = ("sampling", "environments", "verifying", "credit", "update", "other")
        assert sum(row[f"time/{part}"] for part in parts) == pytest.approx(row["time/total"], rel=1e-6)
        assert row["time/environments"] > 0
    assert packed._turns.environments.most_live <= 9
    for a, b in zip(packed.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    inside = 0
    for tree, other in zip(packed.trees, plain.trees, strict=True):
        assert tree.to_dict()["nodes"] == other.to_dict()["nodes"]
        assert tree.meta["environment"]["restored_by"] == "fork"
        assert tree.prompt[-1] == ("c" if "a" in tree.prompt else "d")
        inside += sum(len(tree.path(r.at)) > 1 for r in tree.rollouts)
        for i, leaf in enumerate(tree.leaves):
            fresh = Count()
            fresh.reset(tree.prompt[:-1])
            ids, mask = tree.completion_ids(i), tree.completion_mask(i)
            turns = re.findall("1+0*", "".join(map(str, mask)))
            start = 0
            for turn in turns:
                end = start + turn.count("1")
                if ids[end - 1] == 1:
                    said = fresh.respond({"content": packed._decode(ids[start:end])})
                    if turn.count("0"):
                        assert packed._decode(ids[end : start + len(turn)]) == said
                start += len(turn)
            assert leaf.reward == fresh.get_reward()
    assert inside > 0
    last = packed.state.log_history[0]
    assert last["tools/call_frequency"] == plain.state.log_history[0]["tools/call_frequency"] > 0.5
    assert last["tools/failure_frequency"] == 0
    assert last["rewards/Count/mean"] == pytest.approx(last["reward"])


def test_the_environments_own_reward_may_be_named_beside_others_with_its_weight(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Named or not, it comes last, and TRL gives it weight 1 where none is named."""

    def size(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    for rewards, weights, expected in (
        (["environment", size], [3.0, 0.5], [0.5, 3.0]),
        ([size, "environment"], [0.5, 3.0], [0.5, 3.0]),
        ([size], [0.5], [0.5, 1.0]),
        (["environment"], [3.0], [3.0]),
        (["environment", size], None, [1.0, 1.0]),
    ):
        args = IBTPOConfig(str(tmp_path / "run"), **{**PLAIN, "reward_weights": weights})
        trainer = IBTPOTrainer(str(tiny_model), rewards, args, LETTERS, environment_factory=Count)
        assert trainer.reward_weights.tolist() == expected
        assert trainer.reward_func_names == ["size", "Count"][-len(expected) :]
        assert args.reward_weights == weights
    trainer.train()
    last = trainer.state.log_history[0]
    assert last["reward"] == pytest.approx(last["rewards/size/mean"] + last["rewards/Count/mean"])
    assert last["rewards/size/mean"] != last["rewards/Count/mean"]


def test_what_does_not_fit_is_refused_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    class Both(Box):
        def respond(self, message: Any) -> None:
            """Nothing."""

    def broken() -> Any:
        raise OSError("no server")

    for kwargs, message in (
        ({"rollout_func": print}, "rollout_func returns whole answers"),
        ({"environment_factory": broken}, "the environment's factory failed: OSError: no server"),
        ({"environment_factory": {"a": Box, "b": Both}}, "respond, and methods that are tools, do not go"),
        ({"environment_factory": Count, "eval_dataset": LETTERS}, "TRL's evaluation does not know environments"),
    ):
        with pytest.raises(ConfigError, match=message):
            IBTPOTrainer(str(tiny_model), length, IBTPOConfig(str(tmp_path), **PLAIN), LETTERS, **kwargs)


@pytest.mark.thorough
def test_the_example_of_trls_surface_trains_on_trees_of_turns(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location(
        "guess", Path(__file__).parents[2] / "examples" / "turns" / "guess.py"
    )
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def said(text: str, number: int) -> str:
        # It takes what it was told for the next guess, and gives up after three.
        guesses = [int(n) for n in re.findall(r'"number": (\d+)', text.partition("</tools>")[2])]
        if len(guesses) == 3 or "right" in text:
            return f"I am done ({number})."
        return f"Hm {number}.\n\n" + call("guess", number=50 + 5 * len(guesses) + number)

    engine = ScriptEngine(Script(AutoTokenizer.from_pretrained(model), said))
    monkeypatch.setattr(ibtpo.training.rollouts, "policy_engine", lambda trainer, model: engine)
    defaults = {**QUIET, "bf16": False}
    monkeypatch.setattr(example, "IBTPOConfig", lambda **options: IBTPOConfig(**{**options, **defaults}))
    trainer = example.main(str(model), str(tmp_path), 1)
    (tree,) = trainer.trees
    assert tree.meta["environment"]["name"] == "Guess"
    assert tree.meta["environment"]["restored_by"] == "copy"
    assert tree.prompt.count("The number is from 1 to 100.") == 1
    assert "Guesses the number." in tree.prompt
    assert any(tree.nodes[r.at].step.given or tree.path(r.at) for r in tree.rollouts)
    assert 0 < trainer.state.log_history[0]["tools/call_frequency"] <= 3
    for i, leaf in enumerate(tree.leaves):
        secret = int(trainer._rows[0]["secret"])
        text = tree.completion_text(i)
        guesses = [int(n) for n in re.findall(r'"number": (\d+)', text)]
        found = next((k for k, guess in enumerate(guesses, 1) if guess == secret), None)
        assert leaf.reward == pytest.approx(1 / len(guesses) if found else 0.0)
        for guess in guesses:
            assert ("higher" in text) if guess < secret else ("lower" in text or "right" in text)
