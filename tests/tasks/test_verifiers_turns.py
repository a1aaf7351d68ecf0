"""Tasksets of the package verifiers that take several turns: episodes that the search answers, in trees and verbs."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
vf: Any = pytest.importorskip("verifiers.v1", reason="needs the package verifiers (pip install 'ibtpo[verifiers]')")

from aiohttp import web  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from helpers.laws import check_laws  # noqa: E402
from helpers.tool_model import EOS, Script, ScriptEngine, call, make_tool_model  # noqa: E402
from helpers.trees import FunctionVerifier  # noqa: E402
from ibtpo.cli import main  # noqa: E402
from ibtpo.engines import Sampling  # noqa: E402
from ibtpo.engines.scripted import ScriptedEngine  # noqa: E402
from ibtpo.environments.formats import open_format  # noqa: E402
from ibtpo.environments.live import background_loop  # noqa: E402
from ibtpo.environments.pool import Environments  # noqa: E402
from ibtpo.environments.questions import begin, open_environments  # noqa: E402
from ibtpo.errors import ConfigError, VerifierError  # noqa: E402
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch  # noqa: E402
from ibtpo.tasks import verifiers  # noqa: E402
from ibtpo.tasks.problems import Problem, environment_for, load_problems  # noqa: E402
from ibtpo.tasks.prompts import encode_prompt  # noqa: E402
from ibtpo.tasks.verifiers.agent import ChatLoop  # noqa: E402
from ibtpo.tasks.verifiers.loading import answered_by, environment_config, find_task  # noqa: E402
from ibtpo.tasks.verifiers.turns import VerifiersTools, VerifiersTurns  # noqa: E402
from ibtpo.tree import ROOT, ReasoningTree, read_trees  # noqa: E402
from ibtpo.verify.verifiers import verifiers_reward  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples" / "packages"

# A taskset whose environment, class E, is the test's.
TASKSET = """
import asyncio, itertools
import verifiers.v1 as vf
__all__ = ["E", "Words"]
class T(vf.Task[vf.TaskData]):
    @vf.reward
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)
class Words(vf.Taskset[T]):
    def load(self):
        yield T(vf.TaskData(prompt=PROMPT, system_prompt="Be brief."), self.config.task)
class E(vf.SingleAgentEnv):
    async def run(self, task, agents):
        async with agents.agent.interaction(task) as talk:
"""


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for cached in (verifiers.load_taskset, answered_by, find_task):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a task in the event loop of environments, or a socket."""
    yield

    async def tasks() -> set[str]:
        return {str(t.get_coro()) for t in asyncio.all_tasks() if t is not asyncio.current_task()}

    for _ in range(50):
        left = asyncio.run_coroutine_threadsafe(tasks(), background_loop()).result(10)
        if not left and not listening():
            break
    assert not left
    assert not listening()


def listening() -> list[str]:
    """The addresses at which this process waits for connections."""
    mine = {link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with Qwen3's chat template, which drops the thinking of turns when messages follow."""
    return make_tool_model(tmp_path_factory.mktemp("chat_model"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def taskset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Writes a taskset whose environment's conversation is the given lines, and returns its name."""

    def write(body: str, prompt: str | None = "Hello.", head: str = TASKSET) -> str:
        name = f"words_{abs(hash(request.node.name + body + head))}"
        lines = "".join(f"            {line}\n" for line in body.strip().splitlines())
        (tmp_path / f"{name}.py").write_text(head.replace("PROMPT", repr(prompt)) + lines)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def in_loop(work: Any, seconds: float = 60) -> Any:
    """What a coroutine gives in the event loop of environments."""
    return asyncio.run_coroutine_threadsafe(work, background_loop()).result(seconds)


async def talk(column: str, turns: list[str]) -> tuple[list[Any], float | str]:
    """What a new environment says to some turns, and its reward, or why it gives none."""
    environment = VerifiersTurns()
    try:
        await environment.reset(verifiers=column)
        said = [await environment.respond({"role": "assistant", "content": turn}) for turn in turns]
        try:
            return said, await environment.get_reward()
        except VerifierError as error:
            return said, str(error)
    finally:
        await environment.close()


def column(name: str, index: int = 0) -> str:
    return str(load_problems(f"verifiers:{name}")[index].columns["verifiers"])


def test_rows_say_that_they_are_answered_in_turns_and_by_what() -> None:
    problems = load_problems("verifiers:guess_number")
    assert [p.prompt for p in problems] == [
        [{"role": "user", "content": "Guess my number from 1 to 9. Say the number only."}]
    ] * 3
    assert {environment_for(p) for p in problems} == {"ibtpo.tasks.verifiers.turns:VerifiersTurns"}
    assert {environment_for(p) for p in load_problems("verifiers:reverse_words")} == {None}
    with pytest.raises(ConfigError, match="guess_number is answered in turns, and its environment gives the reward"):
        verifiers_reward(["5"], verifiers=[problems[0].columns["verifiers"]])


def test_an_episode_is_answered_turn_by_turn() -> None:
    five = column("guess_number", 1)
    assert in_loop(talk(five, ["4", "9", "5", "5"])) == (["higher", "lower", None, None], 1 / 3)
    assert in_loop(talk(five, ["<think>Half of 9?</think>\n 5 "])) == ([None], 1.0)
    assert in_loop(talk(five, ["4"])) == (["higher"], 0.0)  # ends where the search ends it
    assert in_loop(talk(five, [])) == ([], 0.0)


def test_an_environment_may_open_the_conversation(taskset: Any) -> None:
    name = taskset("await talk.turn('What is it?')\nawait talk.turn('And that?')", prompt=None)
    (problem,) = load_problems(f"verifiers:{name}")
    assert problem.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
    ]
    assert in_loop(talk(problem.columns["verifiers"], ["A", "B"])) == (["And that?", None], 2.0)


# --- the same reward as in verifiers' own run


async def own_run(column: str, turns: list[str]) -> float:
    """The reward of a whole run of verifiers, whose model is a server that gives the turns in their order."""
    item = json.loads(column)
    said = iter(turns)

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        message = {"role": "assistant", "content": next(said)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
    config, role, kind = environment_config(item["taskset"], json.dumps(item["config"]))

    class Run(kind):  # type: ignore[misc, valid-type]
        async def setup(self, agents: Any) -> None:
            getattr(agents, role).harness = ChatLoop()  # verifiers' own would install its program first

    env = Run(config)
    try:
        async with env.serving():
            context = vf.ModelContext(model="m", client=vf.EvalClientConfig(base_url=address))
            episode = await env.run_slot(env.slots(find_task(column))[0], context)
    finally:
        await runner.cleanup()
    assert episode.ok
    return float(episode.traces[0].reward)


@pytest.mark.parametrize("turns", [["5"], ["9", "<think>?</think>5"], ["x", "3", "8", "5"]])
def test_the_reward_is_that_of_verifiers_own_run(turns: list[str]) -> None:
    five = column("guess_number", 1)
    plain = [turn.removeprefix("<think>?</think>") for turn in turns]  # as a server with a reasoning parser gives it
    assert in_loop(talk(five, turns))[1] == in_loop(own_run(five, plain)) == 1 / len(turns)


# --- trees


def grow(problems: list[Problem], tokenizer: Any, digits: str = "456", **kwargs: Any) -> list[ReasoningTree]:
    """Trees whose model says one of some digits in each turn, each as likely as the other."""
    ids = [tokenizer.convert_tokens_to_ids(d) for d in digits]

    def next_token(before: tuple[int, ...]) -> dict[int, float]:
        return {EOS: 1.0} if before[-1] in ids else dict.fromkeys(ids, 1.0)

    def decode(tokens: Any) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    prompts = []
    for problem in problems:
        text, tokens = encode_prompt(problem, tokenizer)
        prompts.append(Prompt(problem.id, tuple(tokens), text, dict(problem.columns), True))
    format, _ = open_format(tokenizer, decode, chat=True, tools=False)
    environments = Environments(VerifiersTurns, format=format, **kwargs)
    options = SearchOptions(Budget(3, 5, 1, 1), Sampling(1.0, 1.0, 0), max_completion_length=400, splitter="turn")
    verifier = FunctionVerifier(own)
    engine = ScriptedEngine(next_token, [EOS])

    async def search() -> list[ReasoningTree]:
        try:
            return await TreeSearch(engine, verifier, decode, options, environments=environments).grow_all(prompts)
        finally:
            await environments.close()

    return asyncio.run(search())


def own(row: dict[str, Any]) -> float:
    if isinstance(row["environment_reward"], str):
        raise ValueError(row["environment_reward"])
    return float(row["environment_reward"])


def test_a_tree_branches_between_the_turns_and_replays_the_episode(tokenizer: Any) -> None:
    problems = load_problems("verifiers:guess_number")
    inside = 0
    for tree, problem, number in zip(grow(problems, tokenizer), problems, (3, 5, 8), strict=True):
        check_laws(tree)
        assert tree.meta["environment"] == {
            "name": "VerifiersTurns", "restored_by": "replay", "calls": tree.meta["environment"]["calls"], "failures": 0
        }  # fmt: skip
        prompt = tokenizer.apply_chat_template(problem.prompt, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(tree.prompt_ids) == prompt
        inside += sum(rollout.at != ROOT for rollout in tree.rollouts)
        for i, leaf in enumerate(tree.leaves):
            ids, mask = tree.completion_ids(i), tree.completion_mask(i)
            guesses = re.findall(r"(\d)<\|im_end\|>", tokenizer.decode(ids))
            expected, sampled = "", []
            for n, guess in enumerate(guesses):
                turn = f"{guess}<|im_end|>"
                hint = "higher" if int(guess) < number else "lower"
                said = f"\n<|im_start|>user\n{hint}<|im_end|>\n<|im_start|>assistant\n" if n + 1 < len(guesses) else ""
                expected += turn + said
                sampled += [1, 1] + [0] * len(tokenizer(said)["input_ids"])
            assert tokenizer.decode(ids) == expected
            assert list(map(int, mask)) == sampled
            won = guesses[-1] == str(number)
            assert won or number != 5 or leaf.stop == "length"
            assert leaf.reward == (1 / len(guesses) if won else 0.0)
    assert inside > 3


def test_a_taskset_that_answers_differently_is_branched_at_the_root_alone(taskset: Any, tokenizer: Any) -> None:
    head = TASKSET.replace("class E", "COUNT = itertools.count()\nclass E")
    name = taskset("await talk.turn()\nfor _ in range(4):\n    await talk.turn(f'now {next(COUNT)}')", head=head)
    with pytest.warns(UserWarning, match="VerifiersTurns cannot be replayed: turn 1 was answered 'now"):
        (tree,) = grow(load_problems(f"verifiers:{name}"), tokenizer)
    check_laws(tree)
    assert {rollout.at for rollout in tree.rollouts} == {ROOT}
    assert "now" in tree.meta["environment"]["not_replayable"]
    assert {leaf.reward for leaf in tree.leaves} == {5.0}


# --- tools

ATLAS = {
    "type": "function",
    "function": {
        "name": "atlas_population",
        "description": "Says how many people live in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"title": "City", "type": "string"}},
            "required": ["city"],
            "title": "populationArguments",
        },
    },
}


def test_tools_are_shown_and_called_by_verifiers(tokenizer: Any) -> None:
    """The model asks about a wrong city, then the right one, and says what it read, or not."""
    (problem,) = load_problems("verifiers:look_up", limit=1)
    assert environment_for(problem) == "ibtpo.tasks.verifiers.turns:VerifiersTools"

    def script(text: str, number: int) -> str:
        if "5696" in text:
            return ["5696", "1", "5696"][number % 3]
        return call("atlas_population", city="Vaduz" if "no such city" in text else "Rome")

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    async def search() -> tuple[Any, ReasoningTree]:
        environments = await open_environments(VerifiersTools, tokenizer, decode, chat=True)
        try:
            (opening,) = await begin(environments, [{"prompt": problem.prompt, **problem.columns}])
            rendering = environments.rendering_of(opening)
            text, ids = encode_prompt(problem, tokenizer, rendering=rendering)
            prompt = Prompt(problem.id, tuple(ids), text, dict(problem.columns), True, opening)
            options = SearchOptions(Budget(2, 5, 1, 1), max_completion_length=1000, splitter="turn", branching="random")
            engine = ScriptEngine(Script(tokenizer, script))
            verifier = FunctionVerifier(own)
            found = TreeSearch(engine, verifier, decode, options, environments=environments)
            return rendering, (await found.grow_all([prompt]))[0]
        finally:
            await environments.close()

    rendering, tree = asyncio.run(search())
    check_laws(tree)
    assert rendering["tools"] == [ATLAS]
    assert json.dumps(rendering["tools"]) == json.dumps([ATLAS])
    assert json.dumps(ATLAS) in tokenizer.decode(tree.prompt_ids)
    assert tree.meta["environment"]["name"] == "VerifiersTools"
    assert any(rollout.at != ROOT for rollout in tree.rollouts)
    for i, leaf in enumerate(tree.leaves):
        asked = [call("atlas_population", city=city) for city in ("Rome", "Vaduz")]
        results = [
            f"\n<|im_start|>user\n<tool_response>\n{said}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            for said in ("no such city", "5696")
        ]
        last = "5696" if leaf.reward else "1"
        turns = [f"{turn}<|im_end|>" for turn in (*asked, last)]
        assert tokenizer.decode(tree.completion_ids(i)) == turns[0] + results[0] + turns[1] + results[1] + turns[2]
        masks = [[len(tokenizer(part)["input_ids"])] for part in (turns[0], results[0], turns[1], results[1], turns[2])]
        expected = [n % 2 == 0 for n, (length,) in enumerate(masks) for _ in range(length)]
        assert list(map(bool, tree.completion_mask(i))) == expected
    assert {leaf.reward for leaf in tree.leaves} == {0.0, 1.0}


async def call_tool(column: str, city: str, episodes: int) -> list[Any]:
    """What a tool of the example is, and says, in some episodes of one environment, with the reward at the end."""
    environment, found = VerifiersTools(), []
    turn = {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "atlas_population", "arguments": arguments}}
        for arguments in ({"city": city}, {"town": city})
    ]}  # fmt: skip
    try:
        for _ in range(episodes):
            await environment.reset(verifiers=column)
            found.append([environment.tool_schemas, await environment.respond(turn), await environment.get_reward()])
    finally:
        await environment.close()
    return found


def test_a_tool_that_needs_a_server_gets_one_that_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = "    async def setup(self):\n        pass\n\n    @vf.tool"
    source = (EXAMPLES / "look_up.py").read_text().replace("    @vf.tool", setup)
    (tmp_path / "look_up_served.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    plain, again = in_loop(call_tool(column("look_up"), "Vaduz", 2))
    assert plain == again
    assert plain[0] == [ATLAS]
    assert plain[1][0] == {"role": "tool", "name": "atlas_population", "content": "5696"}
    assert "Error executing tool population" in plain[1][1]["content"]
    assert in_loop(call_tool(column("look_up_served"), "Vaduz", 1), 170) == [plain]


# --- what goes wrong


@pytest.mark.parametrize(
    ("body", "said", "error"),
    [
        ("await talk.turn()\nraise ValueError('no more')", None, "EnvError: E.run(): ValueError: no more"),
        ("await talk.turn()\nawait agents.agent.run(task)", None, "its agent runs more than once in an episode"),
        (
            "await talk.turn()\nawait talk.turn([{'role': 'user', 'content': [{'type': 'image_url', "
            "'image_url': {'url': 'data:image/png;base64,AA'}}]}])",
            None,
            "a message holds more than text",
        ),
    ],
)
def test_an_episode_that_fails_ends_the_answer_and_gives_no_reward(
    body: str, said: Any, error: str, taskset: Any
) -> None:
    answered, reward = in_loop(talk(column(taskset(body)), ["A", "B"]))
    assert answered == [said, None]
    assert error in str(reward)


def test_a_reward_that_fails_is_an_error_of_the_answer(taskset: Any, tokenizer: Any) -> None:
    name = taskset("await talk.turn()", head=TASKSET.replace("float(trace.num_turns)", "1 / 0"))
    (tree,) = grow(load_problems(f"verifiers:{name}"), tokenizer)
    assert {leaf.reward for leaf in tree.leaves} == {None}
    assert "ZeroDivisionError" in tree.meta["verifier_errors"][0]


def test_an_episode_that_hangs_is_given_up(taskset: Any, tokenizer: Any) -> None:
    name = taskset("await talk.turn()\nawait asyncio.sleep(60)")
    (tree,) = grow(load_problems(f"verifiers:{name}"), tokenizer, timeout=0.5)
    for i, leaf in enumerate(tree.leaves):
        assert "user\n{'error': 'timed out after 0.5 s'}\nassistant" in tree.completion_text(i)
        assert leaf.reward is None
    assert tree.meta["environment"]["failures"] >= 3
    assert "a turn was not answered in time" in tree.meta["verifier_errors"][0]


def test_a_time_limit_of_the_task_ends_the_answer_and_what_was_done_is_scored(taskset: Any) -> None:
    head = TASKSET.replace("PROMPT,", "PROMPT, timeout=vf.TaskTimeout(agent=0.5),")

    async def slowly(column: str) -> tuple[Any, Any, float]:
        environment = VerifiersTurns()
        try:
            await environment.reset(verifiers=column)
            first = await environment.respond({"role": "assistant", "content": "A"})
            await asyncio.sleep(1.5)
            second = await environment.respond({"role": "assistant", "content": "B"})
            return first, second, await environment.get_reward()
        finally:
            await environment.close()

    name = taskset("await talk.turn()\nawait talk.turn('Go on.')", head=head)
    assert in_loop(slowly(column(name))) == ("Go on.", None, 1.0)


def test_an_episode_that_asks_for_nothing_is_an_error(taskset: Any) -> None:
    with pytest.raises(ConfigError, match=r"words_\d+ asks for no reply: its episode is over$"):
        in_loop(talk(column(taskset("pass")), []))
    with pytest.raises(ConfigError, match=r"words_\d+ asks for no reply: EnvError: E.run\(\): KeyError: 'x'$"):
        in_loop(talk(column(taskset("raise KeyError('x')")), []))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("class C(vf.EnvConfig):\n    a: vf.AgentConfig = vf.AgentConfig()\n    b: vf.AgentConfig = vf.AgentConfig()\n"
         "class E(vf.Env[C]):", r"an environment, E, of 2 agents \(a, b\); only those of one agent can be used"),
        ("class C(vf.EnvConfig):\n    a: vf.AgentConfig = vf.AgentConfig(harness={'id': 'codex'})\n"
         "class E(vf.Env[C]):", "its agent is the program 'codex'; only tasks whose agent talks"),
        ("class C(vf.EnvConfig):\n    a: vf.AgentConfig = vf.AgentConfig(model='x')\n"
         "class E(vf.Env[C]):", "its agent 'a' has a model of its own, so there is nothing to train"),
    ],
)  # fmt: skip
def test_environments_that_need_more_are_refused(head: str, message: str, taskset: Any) -> None:
    name = taskset("pass", head=TASKSET.replace("class E(vf.SingleAgentEnv):", head))
    with pytest.raises(ConfigError, match=message):
        load_problems(f"verifiers:{name}")


# --- the verbs


def test_sample_and_eval_take_the_environment_that_the_taskset_brings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--model", str(folder), "--data", "verifiers:guess_number", "--quiet", "--max-completion-length", "60"]
    assert main(["sample", *common, "--tree", "2,2,1,1", "--output", "t.jsonl"]) == 0
    for tree in read_trees("t.jsonl"):
        assert tree.meta["verifier"] == "environment"
        assert tree.meta["environment_factory"] == "ibtpo.tasks.verifiers.turns:VerifiersTurns"
        assert {leaf.reward for leaf in tree.leaves} <= {0.0, 0.5, 1.0}
    capsys.readouterr()
    assert main(["eval", *common, "--k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verifier_errors"] == 0
    assert main(["check-data", "verifiers:guess_number"]) != 0
    assert "error: verifiers:guess_number is answered in turns, and its environment" in capsys.readouterr().err


def test_train_takes_it_too(folder: Path, tmp_path: Path) -> None:
    import ibtpo

    run = ibtpo.train(
        model=str(folder), data="verifiers:guess_number", prompts_per_step=2, max_steps=2, max_completion_length=60,
        output=tmp_path / "run",
    )  # fmt: skip
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 2
    assert all(row["tools/failure_frequency"] == 0 and "rewards/VerifiersTurns/mean" in row for row in steps)
