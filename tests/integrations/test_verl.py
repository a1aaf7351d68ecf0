"""What verl gets of trees: requests, rows, metrics and refusals. Without verl; tests/real_verl has the rest."""

import asyncio
import copy
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import ibtpo
from helpers.searches import EOS, Recorder, dicts, grow, next_token, options, prompts
from helpers.trees import BUILDERS, HAND
from ibtpo.credit import CreditOptions
from ibtpo.engines import Completion, Sampling
from ibtpo.errors import ConfigError, EngineError
from ibtpo.integrations.verl.trees import (
    RolloutEngine,
    Settings,
    batch_metrics,
    check,
    extra_fields,
    logprobs_kind,
    rows,
    sampling_of,
)
from ibtpo.metrics import tree_record
from ibtpo.score import ScoreOptions

METHOD = Path(ibtpo.__file__).parent / "integrations" / "verl" / "method" / "ibtpo.yaml"


@dataclass
class Output:
    """What verl's client returns, see its `TokenOutput`."""

    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str = "completed"
    extra_fields: dict[str, Any] = field(default_factory=dict)


class Client:
    """verl's client over the scripted model. `asked` keeps every request: (id, prompt, parameters, what came back)."""

    def __init__(self) -> None:
        self.engine = Recorder(next_token, [EOS])
        self.asked: list[tuple[str, tuple[int, ...], dict[str, Any], list[int]]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Output:
        """Samples as the server would, from the seed of the request."""
        p = sampling_params
        found = await self.engine.generate(prompt_ids, Sampling(), p["seed"], p["max_tokens"])
        self.asked.append((request_id, tuple(prompt_ids), p, found.token_ids))
        return Output(found.token_ids, found.logprobs, extra_fields={"global_steps": 3})


class AsVerl(Recorder):
    """The scripted engine with what goes through verl: 31 bits of the seed, and no entropies."""

    async def generate(self, prompt_ids: Any, sampling: Sampling, seed: int, max_new_tokens: int) -> Completion:
        return replace(await super().generate(prompt_ids, sampling, seed % 2**31, max_new_tokens), entropies=None)


def test_a_tree_over_verls_client_is_the_tree_of_the_engine_behind_it() -> None:
    client = Client()
    found = grow(options(seed=5), prompts(1), RolloutEngine(client, "u", eos_token_id=EOS))
    assert dicts(found) == dicts(grow(options(seed=5), prompts(1), AsVerl(next_token, [EOS])))
    assert {request[0] for request in client.asked} == {"u"}  # one id, so one replica and its cache


def test_the_model_is_conditioned_on_exactly_the_tokens_from_the_root_to_the_node() -> None:
    """And a row is the prompt's continuation: what it was conditioned on, and then what came back."""
    client = Client()
    (tree,) = grow(options(seed=5), prompts(1), RolloutEngine(client, "u", eos_token_id=EOS))
    answers = rows(tree, CreditOptions())
    starts = [tuple(tree.prefix_ids(rollout.at)) for rollout in tree.rollouts]
    assert len(tree.rollouts) == 12
    assert any(len(start) > len(tree.prompt_ids) for start in starts)  # some branched inside
    asked = Counter((prompt, tuple(back)) for _, prompt, _, back in client.asked)
    whole = [(*tree.prompt_ids, *answer.ids) for answer in answers]
    assert asked == Counter((start, row[len(start) :]) for start, row in zip(starts, whole, strict=True))
    for (_, prompt, params, _), _ in zip(client.asked, starts, strict=True):
        assert params["max_tokens"] == 12 - (len(prompt) - len(tree.prompt_ids))


def test_requests_say_what_sampling_means_at_verl() -> None:
    client = Client()
    engine = RolloutEngine(client, "u", eos_token_id=EOS, own_ids=True)
    for seed in (2**31 + 4, 5):
        asyncio.run(engine.generate([1, 2], Sampling(0.7, 0.9, 0), seed, 3))
    assert [request[0] for request in client.asked] == ["u-1", "u-2"]
    assert client.asked[0][2] == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "repetition_penalty": 1.0,
        "logprobs": True,
        "seed": 4,
        "max_tokens": 3,
    }
    assert engine.versions == {3}
    assert sampling_of({"temperature": 1, "top_p": 1, "top_k": -1}) == Sampling(1.0, 1.0, 0)


class Fixed:
    """A client that returns, or raises, always the same."""

    def __init__(self, output: Any) -> None:
        self.output = output

    async def generate(self, request_id: str, **_: Any) -> Any:
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


def ask(output: Any, room: int = 3, max_length: int | None = None) -> Completion:
    engine = RolloutEngine(Fixed(output), "u", eos_token_id=9, max_length=max_length)
    return asyncio.run(engine.generate([1, 2], Sampling(), 0, room))


def test_an_answer_that_is_shorter_than_it_may_be_was_ended_by_the_model() -> None:
    full = Output([1, 2, 3], [-1.0] * 3)
    assert ask(full).stop_reason == "length"
    assert ask(Output([1, 2, 9], [-1.0] * 3)).stop_reason == "eos"
    assert ask(full, room=4).stop_reason == "eos"  # by another of the model's end tokens
    assert ask(full, room=4, max_length=5).stop_reason == "length"  # the context ends first


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output([], None, "aborted"), "0 tokens with the stop reason 'aborted'"),
        (Output([1], [-1.0], "aborted"), "1 tokens with the stop reason 'aborted'"),
        (Output([], []), "0 tokens"),
        (Output([1], None), "no log-probs"),
        (RuntimeError("the\nactor died"), "RuntimeError: the actor died"),
    ],
)
def test_what_is_no_answer_is_an_engine_error(output: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        ask(output)


def test_a_full_context_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="2 tokens fill the context of 2"):
        ask(Output([1], [-1.0]), max_length=2)


@pytest.mark.parametrize("name", ["three_leaf", "merged", "all_wrong", "fractional", "replies"])
def test_each_token_of_a_row_has_the_advantage_of_its_step(name: str) -> None:
    tree = BUILDERS[name]()
    for i, row in enumerate(rows(tree, CreditOptions())):
        path = tree.path(tree.leaves[i].node)
        by_hand = [float(HAND[name]["advantage"][n] or 0) for n in path for _ in tree.nodes[n].step.token_ids]
        assert row.credit == pytest.approx(by_hand, abs=1e-12)
        assert row.ids == tree.completion_ids(i)
        assert row.sampled == tree.completion_mask(i)
        assert row.logprobs == tree.completion_logprobs(i)
        assert row.reward == row.correct == tree.leaves[i].reward


def test_rows_by_hand() -> None:
    first, second, third = rows(BUILDERS["three_leaf"](), CreditOptions(advantage="grpo"))
    right, wrong = 2 / 3 / (math.sqrt(1 / 3) + 1e-4), -1 / 3 / (math.sqrt(1 / 3) + 1e-4)
    assert (first.ids, second.ids, third.ids) == ([10, 11, 12], [20, 21], [10, 11, 13])
    assert first.credit == pytest.approx([right] * 3)
    assert second.credit == pytest.approx([wrong] * 2)
    assert third.credit == pytest.approx([wrong] * 3)


def test_metrics_are_those_of_the_trees_and_the_rewards_of_the_rows() -> None:
    trees = [BUILDERS["three_leaf"](), BUILDERS["inner_leaf"]()]
    stored = [extra for t in trees for extra in extra_fields(t, rows(t, CreditOptions()), ScoreOptions())]
    assert len(stored) == 8
    out = batch_metrics(stored[::-1])
    # three_leaf: 1 0 0; inner_leaf: 0 1 and 1, and two answers that the verifier could not judge
    assert out["ibtpo/reward/mean"] == out["critic/score/mean"] == out["critic/rewards/mean"] == 0.5
    assert (out["critic/score/max"], out["critic/rewards/min"]) == (1.0, 0.0)
    assert (out["ibtpo/trajectories"], out["ibtpo/verifier_errors"]) == (8.0, 2.0)
    assert out["ibtpo/eff_rate"] == 1.0
    assert out["ibtpo/cov_eta"] == pytest.approx((7 / 64 - 3 / 64) / 2)
    assert out["ibtpo/avg_rate"] == pytest.approx(sum(tree_record(t)["avg_rate"] for t in trees) / 2)
    assert not any(math.isnan(value) for value in out.values())
    assert batch_metrics([]) == {}


def merged(defaults: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(defaults)
    for key, value in changes.items():
        out[key] = merged(out.get(key) or {}, value) if isinstance(value, dict) else value
    return out


# What verl 0.9.1 has where nothing is set, of what is looked at.
VERL = {
    "algorithm": {"adv_estimator": "gae", "use_kl_in_reward": False},
    "actor_rollout_ref": {
        "rollout": {
            "name": "vllm",
            "n": 1,
            "temperature": 1.0,
            "top_p": 1,
            "top_k": -1,
            "logprobs_mode": "processed_logprobs",
            "engine_kwargs": {"vllm": {}},
            "agent": {"default_agent_loop": "single_turn_agent", "agent_loop_manager_class": None},
        }
    },
    "reward": {"reward_model": {"enable": False}},
    "trainer": {"use_v1": True, "v1": {"trainer_mode": "sync"}},
    "distillation": {"enabled": False},
}
CONFIG = merged(VERL, yaml.safe_load(METHOD.read_text(encoding="utf-8")))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The configuration of `+method=ibtpo` with one value changed."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return merged(CONFIG, value)


def test_the_method_is_what_the_options_of_training_are_without_it() -> None:
    settings = check(CONFIG)
    assert settings == Settings(tree=(4, 9, 1, 1))
    assert settings.budget.trajectories == CONFIG["actor_rollout_ref"]["rollout"]["n"] == 12
    assert settings.credit == CreditOptions()
    assert sampling_of(CONFIG["actor_rollout_ref"]["rollout"]) == Sampling()
    search = settings.search(Sampling(), 100, 7)
    assert (search.max_completion_length, search.seed, search.branching) == (100, 7, "ib")
    assert search.score == settings.credit.score == ScoreOptions()
    apart = check(changed("ibtpo", {"branch_beta": 1.0, "branch_value": "draws"}))
    assert apart.search(Sampling(), 100, 7).score == ScoreOptions(ib_beta=1.0, value="draws")
    assert apart.credit.score == ScoreOptions()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainer.use_v1", False, "trainer.use_v1=false: trees need verl's V1 trainer"),
        ("trainer.v1.trainer_mode", "colocate_async", "synchronous trainer; set it to ibtpo"),
        ("algorithm.adv_estimator", "grpo", "adv_estimator=grpo would take step advantages for rewards"),
        ("algorithm.use_kl_in_reward", True, "actor_rollout_ref.actor.use_kl_loss to true"),
        ("algorithm.filter_groups", {"enable": True, "metric": "reward"}, "filter by acc"),
        (
            "actor_rollout_ref.rollout.n",
            8,
            r"rollout.n=8, but ibtpo.tree=\(4, 9, 1, 1\) grows 12 answers",
        ),
        (
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
            None,
            "manager_class=None: set it to ibtpo",
        ),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "ibtpo", "leave it at single_turn_agent"),
        ("actor_rollout_ref.rollout.name", "sglang", "trees are grown over vllm only"),
        ("actor_rollout_ref.rollout.logprobs_mode", "processed_logprobs", "are not those of the full softmax"),
        ("actor_rollout_ref.rollout.logprobs_mode", "raw_logprobs", "set it to processed_logits"),
        ("actor_rollout_ref.rollout.logprobs_mode", "raw_logits", "set it to processed_logits"),
        ("actor_rollout_ref.rollout.engine_kwargs.vllm.logits_processors", [], "FullSoftmax"),
        ("actor_rollout_ref.rollout.temperature", 0, "temperature must be > 0"),
        ("reward.reward_model.enable", True, "name that as ibtpo.verifier"),
        ("distillation.enabled", True, "distillation.enabled=true"),
        ("ibtpo.advantage", "treepo", "'treepo' divides by a number of the whole batch"),
        ("ibtpo.advantage", "ibpto", "unknown advantage 'ibpto'"),
        ("ibtpo.tree", [4, 9, 1], "four integers B0,L,K,B"),
        ("ibtpo.branchin", "ib", "unknown option of the node ibtpo 'branchin'; did you mean 'branching'"),
        ("ibtpo.splitter", "lines", "unknown splitter"),
    ],
)
def test_what_would_train_on_something_else_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(changed(path, value))


def test_without_the_method_the_error_says_how_to_add_it() -> None:
    with pytest.raises(ConfigError, match=r"\+method=ibtpo to the command"):
        check(VERL)


def test_what_fits_is_not_refused() -> None:
    assert check(changed("ibtpo.tree", "6,7,1,1")).budget.trajectories == 12
    check(changed("algorithm.filter_groups", {"enable": True, "metric": "acc"}))
    # Without top-p and top-k, verl's own mode reports the full softmax.
    plain = merged(
        CONFIG, {"actor_rollout_ref": {"rollout": {"top_p": 1, "top_k": -1, "engine_kwargs": {"vllm": None}}}}
    )
    check(merged(plain, {"actor_rollout_ref": {"rollout": {"logprobs_mode": "processed_logprobs"}}}))


def test_kinds_of_log_probs() -> None:
    rollout = CONFIG["actor_rollout_ref"]["rollout"]
    assert logprobs_kind(rollout) == "full"
    assert logprobs_kind({**rollout, "logprobs_mode": "raw_logprobs"}) == "raw"
    assert logprobs_kind({**rollout, "logprobs_mode": "processed_logprobs"}) == "processed"
    assert logprobs_kind({**rollout, "engine_kwargs": {}}) == "unknown"  # logits, not log-probs
    assert logprobs_kind({"name": "own"}) == "full"
