"""The plugin in verl's own classes, without Ray: configuration, agent loop, estimator, manager and reward."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorStack, TensorDict
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.protocol import DataProto
from verl.trainer.ppo.v1 import agent_loop_tq, get_trainer_cls
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.engines import Sampling
from ibtpo.engines.models import resolve_model
from ibtpo.errors import ConfigError
from ibtpo.integrations.verl import plugin
from ibtpo.integrations.verl.trees import Settings, check
from real_verl.launch import LENGTH, METHOD, TEMPLATE
from real_verl.questions import row_of, walks
from real_verl.reference import Reference

STEP = 3


def configuration(*overrides: str) -> DictConfig:
    """verl's configuration with the method, for the embedded model."""
    lengths = ["data.max_prompt_length=64", f"data.max_response_length={LENGTH}", "ibtpo.verifier=walk"]
    model = f"actor_rollout_ref.model.path={resolve_model('nano')}"
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer", overrides=["actor_rollout_ref.rollout.name=vllm", *METHOD, model, *lengths, *overrides]
        )


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return configuration()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


class Client:
    """verl's client over the transformers engine. `asked` keeps the tokens that the model was conditioned on."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.asked: list[list[int]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """Samples as verl's server would."""
        p = sampling_params
        sampling = Sampling(p["temperature"], p["top_p"], max(p["top_k"], 0))
        found = await self.reference.engine.generate(prompt_ids, sampling, p["seed"], p["max_tokens"])
        self.asked.append(prompt_ids)
        return TokenOutput(
            token_ids=found.token_ids,
            log_probs=found.logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": STEP - 1},
        )


@pytest.fixture(scope="module")
def grown(config: DictConfig, reference: Reference) -> tuple[list[list[plugin.TreeOutput]], list[Any], Client]:
    """What the agent loop returns for two questions, the trees that ibtpo grows without verl, and the client."""
    problems, client = walks(2), Client(reference)
    reference.tokenizer.chat_template = TEMPLATE
    params = {"temperature": 0.7, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.0, "logprobs": True}

    async def one(index: int) -> list[plugin.TreeOutput]:
        loop = plugin.TreeAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=client,
            tokenizer=reference.tokenizer,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="llama",
        )
        row = row_of(problems[index], index)
        row["raw_prompt"] = row.pop("prompt")
        return await loop.run(params, uid=f"random-{index}", index=index, global_steps=STEP, session_id=0, **row)

    outputs = [asyncio.run(one(i)) for i in range(2)]
    settings = Settings.read(plugin.plain(config.ibtpo))
    return outputs, [reference.tree(p, i, STEP, settings) for i, p in enumerate(problems)], client


def stored(outputs: list[plugin.TreeOutput]) -> list[dict[str, Any]]:
    """The fields that verl stores, after its worker has given all outputs the reward of the last."""
    for output in outputs[:-1]:
        output.reward_score = outputs[-1].reward_score
        output.extra_fields["reward_extra_info"] = outputs[-1].extra_fields["reward_extra_info"]
    return [output.as_dict() for output in outputs]


def test_the_method_fits_verls_own_configuration(config: DictConfig) -> None:
    assert check(plugin.plain(config)).budget.trajectories == config.actor_rollout_ref.rollout.n == 12
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == "single_turn_agent"
    environment = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert dict(environment) == {"VERL_USE_EXTERNAL_MODULES": plugin.__name__}


def test_rows_are_those_of_the_trees_grown_without_verl(grown: Any) -> None:
    outputs, trees, _ = grown
    for found, tree in zip(outputs, trees, strict=True):
        advantages = token_advantages(tree, path_advantages(tree, CreditOptions()))
        fields = stored(found)
        assert len(fields) == len(tree.leaves) == 12
        for i, field in enumerate(fields):
            assert field["prompts"].tolist() == list(tree.prompt_ids)
            assert field["responses"].tolist() == tree.completion_ids(i)
            assert field["response_mask"].tolist() == [1] * len(tree.completion_ids(i))
            assert field["rollout_log_probs"].tolist() == pytest.approx(tree.completion_logprobs(i), abs=1e-5)
            assert field["rm_scores"].tolist() == pytest.approx(advantages[i].tolist(), abs=1e-4)
            assert field["extra_fields"]["reward_extra_info"] == {"acc": tree.leaves[i].reward}
            assert field["extra_fields"]["ibtpo_reward"] == tree.leaves[i].reward
            assert field["extra_fields"]["min_global_steps"] == field["extra_fields"]["max_global_steps"] == STEP - 1
    rewards = {leaf.reward for tree in trees for leaf in tree.leaves}
    assert rewards == {0.0, 1.0}  # else much of this would hold of anything


def test_every_request_is_the_prompt_and_whole_steps_of_the_tree(grown: Any) -> None:
    _, trees, client = grown
    starts = sorted(tree.prefix_ids(rollout.at) for tree in trees for rollout in tree.rollouts)
    assert sorted(client.asked) == starts


def test_the_estimator_passes_step_advantages_on(grown: Any, config: DictConfig) -> None:
    outputs, trees, _ = grown
    fields = [field for found in outputs for field in stored(found)]
    keys = [f"{u}_0_{i}" for u, found in enumerate(outputs) for i in range(len(found))]

    def padded(name: str) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([f[name] for f in fields], batch_first=True)

    # Rejected tokens have a mask of 0 by then; here the first of all answers.
    mask = padded("response_mask")
    mask[:, 0] = 0
    batch = TensorDict({"token_level_rewards": padded("rm_scores"), "response_mask": mask}, batch_size=len(keys))
    data = DataProto(batch=batch, non_tensor_batch={"uid": np.array([k.split("_")[0] for k in keys], dtype=object)})
    found = compute_advantage_for_multi_trajectories(
        data, batch_keys=keys, adv_estimator="ibtpo", num_repeat=12, config=config.algorithm
    ).batch
    by_hand = [a for tree in trees for a in token_advantages(tree, path_advantages(tree, CreditOptions()))]
    assert torch.equal(found["advantages"], found["returns"])
    assert len({round(float(a), 6) for a in by_hand[0]}) > 1  # steps of one answer differ
    for row, advantages in zip(found["advantages"], by_hand, strict=True):
        wanted = [0.0, *advantages[1:], *[0.0] * (len(row) - len(advantages))]
        assert row.tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_manager_sends_training_questions_to_trees_and_leaves_validation_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Any] = []

    class Remote:
        def remote(self, chunk: Any) -> None:
            sent.append(chunk)

    class Worker:
        generate_sequences = Remote()

    monkeypatch.setattr(agent_loop_tq.ray, "get", lambda futures: futures)
    manager = object.__new__(plugin.TreeManager)
    manager.agent_loop_workers = [Worker()]
    for validate in (False, True):
        batch = TensorDict({"uid": NonTensorStack("a", "b")}, batch_size=2)
        if validate:
            batch.set_non_tensor("validate", True)
        manager.generate_sequences(batch)
    train, validation = sent
    assert (train["agent_name"], train["__rollout_n__"]) == ("ibtpo", 1)
    assert set(validation.keys()) == {"uid", "validate"}


def test_what_does_not_fit_is_refused_by_trainer_and_manager_before_anything_is_loaded() -> None:
    wrong = configuration("actor_rollout_ref.rollout.n=8")
    for make in (get_trainer_cls("ibtpo"), plugin.TreeManager):
        with pytest.raises(ConfigError, match=r"rollout\.n=8, but ibtpo\.tree"):
            make(config=wrong)


def test_images_are_refused(config: DictConfig, reference: Reference) -> None:
    loop = object.__new__(plugin.TreeAgentLoop)
    loop.config = config

    async def images(messages: Any) -> dict[str, Any]:
        return {"images": [object()]}

    loop.process_multi_modal_info = images
    with pytest.raises(ConfigError, match="trees are grown for text only"):
        asyncio.run(loop.run({}, raw_prompt=[]))


def test_verls_reward_functions_judge_trees() -> None:
    """Of each kind verl knows: a number, a dictionary, and an async function."""

    def number(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
        assert (data_source, extra_info) == ("mine", {"index": 4})
        return float(solution_str == ground_truth)

    def table(**given: Any) -> dict[str, Any]:
        return {"score": 2 * number(**given), "acc": 1}

    async def late(**given: Any) -> float:
        return number(**given)

    path = "/nowhere/reward.py"
    config = OmegaConf.create({"reward": {"custom_reward_function": {"path": None, "name": path}}})
    row = {"data_source": "mine", "reward_model": {"ground_truth": "7"}, "extra_info": {"index": 4, "answer": "= 7"}}
    row["extra_info"].pop("answer")
    columns = plugin.columns(row, [{"role": "user", "content": "3 + 4"}])
    assert (columns["answer"], columns["ground_truth"], columns["index"]) == ("7", "7", 4)
    rows = [{**columns, "completion": [{"role": "assistant", "content": text}]} for text in ("7", "8")]
    for compute, right in ((number, 1.0), (table, 2.0), (late, 1.0)):
        judge = plugin.RewardFunctions(plugin.verl_reward(compute))
        assert [verdict.reward for verdict in judge.score(rows)] == [right, 0.0]
        judge.close()
    default = plugin.verifier(Settings(verifier="verl"), config)
    verdict = default.score([{**rows[0], "data_source": "openai/gsm8k", "completion": "#### 7"}])[0]
    assert verdict.reward == 1.0
    default.close()
