"""Malformed input of every kind ends in one clear message, or in what the documentation says happens instead.

The cases are in `malformed_cases.py`; a message must name the file, line, column, option or id it is about. No case may
lose work that was finished before, and a verifier that hangs costs its deadline and no more.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.malformed_cases import (
    CONFIGS,
    DATA,
    GOOD_TREE,
    ODD_DATA,
    OPTIONS,
    RECIPES,
    ROW,
    TREE,
    TREES,
    Case,
)
from helpers.malformed_place import LONGEST, Call, assert_one_message, letters, write
from helpers.malformed_verifiers import IN_PROCESS, ROWS, VERIFIERS
from helpers.tiny_model import make_tiny_model
from ibtpo import cli
from ibtpo.engines.models import load_model
from ibtpo.errors import ConfigError, VerifierError
from ibtpo.tasks.problems import load_problems
from ibtpo.tree import read_trees
from ibtpo.verify.pool import VerifierPool
from ibtpo.verify.rewards import RewardFunctions

# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*DATA, *TREES, *OPTIONS, *RECIPES], ids=lambda case: case.name[:60])
def test_a_malformed_command_or_file_is_one_line_of_error(case: Case, call: Call, place: Path) -> None:
    before = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}
    write(place, case.files)
    names = {p.name for p in place.iterdir()}
    code, _, err = call(*case.words)
    assert_one_message(code, err, case.message, case.code)
    assert {p.name for p in place.iterdir()} == names, "a refused command leaves nothing behind"
    assert {name: (place / name).read_bytes() for name in before if name not in case.files} == before


@pytest.mark.parametrize(("content", "read"), [case[1:] for case in ODD_DATA], ids=[case[0] for case in ODD_DATA])
def test_odd_but_good_data_is_read(content: bytes, read: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_bytes(content)
    assert [(p.prompt, p.answer) for p in load_problems(tmp_path / "odd.jsonl")] == read


def test_the_good_trees_before_a_malformed_one_are_printed(call: Call, place: Path) -> None:
    (place / "t.jsonl").write_text(GOOD_TREE * 3 + GOOD_TREE[:50])
    code, out, err = call("score", "t.jsonl", "--json")
    assert_one_message(code, err, r"t\.jsonl:4: ")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["t"] * 3


def test_an_unreadable_file_is_named(call: Call, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # tests may run as root, who may read everything
    assert_one_message(*call("check-data", "good.jsonl")[::2], r"good\.jsonl: Permission denied")


def test_an_output_encoding_without_a_letter_is_named(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import io
    import sys

    (place / "t.jsonl").write_text(json.dumps({**TREE, "id": "é"}))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    code = cli.main(["score", "t.jsonl"])
    assert_one_message(code, capsys.readouterr().err, r"encoding, ascii, has no '\\xe9'; set PYTHONIOENCODING=utf-8")


# --- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), CONFIGS, ids=[str(options)[:60] for options, _ in CONFIGS])
def test_an_option_that_does_not_fit_is_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    from ibtpo.training.config import IBTPOConfig

    base = {"per_device_train_batch_size": 24, "report_to": "none", "gradient_checkpointing": False}
    with pytest.raises(ConfigError, match=message):
        IBTPOConfig(output_dir=str(tmp_path), **{**base, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_funcs": None}, r"reward_funcs is missing"),
        ({"reward_funcs": ["math", print]}, r"reward_funcs mixes names and functions"),
        ({"reward_funcs": "maths"}, r"unknown reward 'maths'; did you mean 'math'"),
        ({"reward_funcs": [3]}, r"a reward function must be callable, got int"),
        ({"reward_funcs": []}, r"no reward function given"),
        ({"args": {"output_dir": "x"}}, r"args must be an IBTPOConfig, got dict"),
        ({"rollout_func": print}, r"does not support rollout_func"),
    ],
)
def test_a_trainer_that_cannot_be_made_says_why(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    from ibtpo.training.config import IBTPOConfig
    from ibtpo.training.trainer import IBTPOTrainer

    args = IBTPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=24, report_to="none")
    with pytest.raises(ConfigError, match=message):
        IBTPOTrainer("tiny", **{"reward_funcs": print, "args": args, **arguments})


@pytest.mark.parametrize("weights", [[1.0, 2.0], [float("nan")], [float("inf")], ["x"], [], "x"])
def test_weights_of_rewards_are_finite_numbers_one_a_function(weights: Any) -> None:
    with pytest.raises(ConfigError, match=r"weight"):
        RewardFunctions(lambda **_: [1.0], weights=weights)


# --- models --------------------------------------------------------------------------------------------------------


def config(**values: Any) -> str:
    return json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 14, **values})


MODELS: list[tuple[str, Callable[[Path], None], str]] = [
    ("no config.json", lambda m: (m / "config.json").unlink(), r"model folder '.*m' holds no config\.json"),
    ("an empty config.json", lambda m: (m / "config.json").write_text(""), r"cannot load model '.*m'"),
    ("a truncated config.json", lambda m: (m / "config.json").write_text('{"model_type": "ll'), r"cannot load model '.*m'"),
    ("a list for config.json", lambda m: (m / "config.json").write_text("[]"), r"cannot load model '.*m'"),
    ("no model type", lambda m: (m / "config.json").write_text("{}"), r"cannot load model '.*m'"),
    ("an unknown model type", lambda m: (m / "config.json").write_text(config(model_type="lama")), r"cannot load model"),
    ("no causal LM", lambda m: (m / "config.json").write_text(config(model_type="vit")), r"cannot load model"),
    ("impossible sizes", lambda m: (m / "config.json").write_text(config(hidden_size=-1)), r"cannot load model"),
    ("other sizes", lambda m: (m / "config.json").write_text(config(hidden_size=8)), r"cannot load model"),
    ("no weights", lambda m: (m / "model.safetensors").unlink(), r"cannot load model '.*m'"),
    ("empty weights", lambda m: (m / "model.safetensors").write_bytes(b""), r"cannot load model '.*m'"),
    ("truncated weights",
     lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:900]), r"cannot load model"),
    ("no tokenizer", lambda m: [p.unlink() for p in m.glob("tok*")], r"cannot load model '.*m'"),
    ("a truncated tokenizer", lambda m: (m / "tokenizer.json").write_text('{"version": '), r"cannot load model '.*m'"),
    ("an empty folder", lambda m: [p.unlink() for p in m.iterdir()], r"model folder '.*m' holds no config\.json"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_a_broken_model_folder_is_named(
    damage: Callable[[Path], Any], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(ConfigError, match=message) as e:
        load_model(str(tmp_path / "m"), device="cpu")
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < LONGEST


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"no model named"),
        ("./nowhere", r"model folder './nowhere' does not exist"),
        ("/no/where/at/all", r"does not exist"),
        ("nanoo", r"unknown model 'nanoo'; did you mean 'nano'"),
        ("smollm2-135", r"did you mean 'smollm2-135m'"),
        ("good.jsonl", r"model 'good\.jsonl' is a file; name the folder"),
        ("bad name!", r"cannot load model 'bad name!'"),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, message: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(name, device="cpu")


# --- prompts, on the tiny model ------------------------------------------------------------------------------------

SAMPLE = ["--device", "cpu", "--tree", "2,2,1,1", "--max-completion-length", 8, "--quiet", "--verifier", "letters:more_a",
          "--verifier-workers", 1, "--temperature", 1]  # fmt: skip


def sample(call: Call, *words: object, output: str = "out.jsonl") -> tuple[int, str, str]:
    return call("sample", "--model", "tiny", "--data", "q.jsonl", "--output", output, *SAMPLE, *words)


@pytest.mark.parametrize(
    ("question", "words", "message"),
    [
        ("a" * 100_000, [], r"problem 'odd': its prompt has 100000 tokens, the model's context holds 128"),
        ("a" * 128, [], r"problem 'odd': its prompt has 128 tokens"),
        ("", [], r"q\.jsonl, line 2, column 'question': the question is empty"),
        (" \n\t ", [], r"q\.jsonl, line 2, column 'question': the question is empty"),
        ("ab", ["--instruction", "\udcff"], r"problem 'fine': .* contains \\udcff, half a character"),
        ("ab", ["--system-prompt", "a" * 200], r"problem 'fine': its prompt has 20\d tokens"),
        ([{"role": "user", "content": "a"}], [], r"problem 'odd' is a conversation, which needs a chat template"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_named_before_anything_is_sampled(
    question: Any, words: list[str], message: str, call: Call, place: Path
) -> None:
    rows = [{"id": "fine", "question": "ab"}, {"id": "odd", "question": question}]
    (place / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, _, err = sample(call, *words)
    assert_one_message(code, err, message)
    assert not (place / "out.jsonl").exists()
    assert not (place / "out.jsonl.partial").exists()


@pytest.mark.parametrize("question", ["a" * 127, "<eos>ab<pad>", "a\x00b", "\u2028\ufeff", "日本語", "\U0001f600" * 20])
def test_an_odd_prompt_that_fits_is_sampled(question: str, call: Call, place: Path) -> None:
    (place / "q.jsonl").write_text(json.dumps({"id": "odd", "question": question}))
    assert sample(call)[0] == 0
    (tree,) = read_trees(place / "out.jsonl")
    assert len(tree.leaves) == 3
    room = 128 - len(tree.prompt_ids)
    assert all(1 <= len(tree.completion_ids(i)) <= min(room, 8) for i in range(3))


def test_a_model_without_an_end_token_answers_to_the_length_limit(call: Call, place: Path) -> None:
    make_tiny_model(place / "endless", eos=False)
    (place / "q.jsonl").write_text(json.dumps({"id": "odd", "question": "a"}))
    code, _, err = call("sample", "--model", "endless", "--data", "q.jsonl", "--output", "out.jsonl", *SAMPLE)
    assert (code, err) == (0, "")
    (tree,) = read_trees(place / "out.jsonl")
    assert {leaf.stop for leaf in tree.leaves} == {"length"}
    assert {len(tree.completion_ids(i)) for i in range(3)} == {8}


# --- verifiers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Any]]:
    """The verdict on a row of a kind, from a pool with a deadline of 0.3 s a row."""
    folder = tmp_path_factory.mktemp("verifiers")
    lines = ["import os, signal, sys, time", "def reward(**k):", " kind = k['kind'][0]"]
    lines += [f" if kind == {i}:\n  " + body.replace("\n", "\n ") for i, (_, body, _) in enumerate(VERIFIERS)]
    (folder / "rogue.py").write_text("\n".join(lines) + "\n return [1.0]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with VerifierPool("rogue:reward", workers=1, timeout=0.3) as pool:

            def score(kind: int) -> Any:
                rows = [
                    {"prompt": "p", "completion": "x" * 100_000, "completion_ids": [], "kind": k} for k in (kind, -1)
                ]
                return pool.score(rows)

            yield score


@pytest.mark.parametrize("kind", range(len(VERIFIERS)), ids=[name for name, _, _ in VERIFIERS])
def test_a_verifier_that_misbehaves_costs_its_own_row_an_error(kind: int, judge: Callable[[int], Any]) -> None:
    message = VERIFIERS[kind][2]
    began = time.monotonic()
    odd, fine = judge(kind)
    assert time.monotonic() - began < 30, "it must end near its deadline; a process is started anew meanwhile"
    assert fine.reward == 1.0
    if message is None:
        assert (odd.reward, odd.error) == (1.0, None)
    else:
        assert odd.reward is None
        assert re.search(message, odd.error), odd.error
        assert "\n" not in odd.error
        assert len(odd.error) < 600


@pytest.mark.parametrize(("func", "message"), [c[1:] for c in IN_PROCESS], ids=[c[0] for c in IN_PROCESS])
def test_a_function_in_this_process_that_misbehaves_gives_errors_and_never_a_zero(
    func: Callable[..., Any], message: str | None
) -> None:
    rows = [{"prompt": "p", "completion": "c", "completion_ids": []}] * ROWS
    with RewardFunctions(func, timeout=0.3) as verifier:
        verdicts = verifier.score(rows)
    assert len(verdicts) == ROWS
    for verdict in verdicts:
        if message is None:
            assert (verdict.reward, verdict.error) == (1.0, None)
        else:
            assert verdict.reward is None
            assert re.search(message, verdict.error), verdict.error


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nomodule:f", VerifierError, r"cannot load reward function 'nomodule:f': ModuleNotFoundError"),
        ("letters:nothing", VerifierError, r"'nothing' does not exist in module 'letters' \(.*letters\.py\)"),
        ("letters:LETTERS", VerifierError, r"'LETTERS' does not exist"),
        ("letters:time", VerifierError, r"'time' is module, not callable"),
        ("raises_when_imported:f", VerifierError, r"ZeroDivisionError: .*raises_when_imported\.py:1\)"),
        ("exits_when_imported:f", VerifierError, r"SystemExit: 7"),
        ("", ConfigError, r"unknown reward ''"),
        ("mth", ConfigError, r"unknown reward 'mth'; did you mean 'math'"),
        (":f", ConfigError, r"not a dotted path|unknown reward"),
        ("letters:more a", ConfigError, r"not a dotted path"),
        (print, ConfigError, r"a name or a dotted path, got builtin_function_or_method"),
        (["letters:more_a", "letters:nothing"], VerifierError, r"'nothing' does not exist"),
        ([], ConfigError, r"no reward function given"),
    ],
)
def test_a_verifier_that_cannot_be_had_is_an_error_for_the_caller(
    name: Any, error: Any, message: str, place: Path
) -> None:
    with pytest.raises(error, match=message), VerifierPool(name, workers=1) as pool:
        pool.score([{"prompt": "p", "completion": "c", "completion_ids": []}])


@pytest.mark.parametrize(
    ("verifier", "error"),
    [
        ("fail", r"fail: ValueError: no such unit"),
        ("hang", r"timed out after 0\.3 s"),
        ("seven", r"seven: returned 7 values for 1 row"),
    ],
)
def test_sampling_goes_on_past_a_verifier_that_fails_and_counts_it(
    verifier: str, error: str, call: Call, place: Path
) -> None:
    (place / "q.jsonl").write_text(json.dumps({"id": "a", "question": "ab"}))
    code, out, _ = sample(call, "--verifier", f"letters:{verifier}", "--verifier-timeout", 0.3, "--json")
    assert (code, json.loads(out)["verifier_errors"]) == (0, 3)
    (tree,) = read_trees(place / "out.jsonl")
    assert [(leaf.reward, leaf.stop) for leaf in tree.leaves] == [(None, "verifier_error")] * 3
    assert all(re.search(error, e) for e in tree.meta["verifier_errors"])
    code, out, err = call("score", "out.jsonl", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["avg_reward"] is None


def test_evaluation_leaves_failed_verdicts_out_and_counts_them(call: Call, place: Path) -> None:
    (place / "q.jsonl").write_text('{"question": "ab"}\n{"question": "cd"}\n')
    words = [
        "--max-completion-length",
        8,
        "--verifier-workers",
        1,
        "--quiet",
        "--json",
        "--device",
        "cpu",
        "--temperature",
        1,
    ]
    got = {}
    for verifier in ("half", "fail"):
        code, out, err = call(
            "eval", "--model", "tiny", "--data", "q.jsonl", "--k", 4, *words, "--verifier", f"letters:{verifier}"
        )
        assert (code, err) == (0, "")
        got[verifier] = json.loads(out)
    assert 0 < got["half"]["verifier_errors"] < 8
    assert got["half"]["avg"] == 1.0
    assert (got["fail"]["avg"], got["fail"]["n"], got["fail"]["verifier_errors"]) == (None, 0, 8)


def test_a_run_in_which_every_verdict_failed_warns_with_the_first_error(call: Call, place: Path) -> None:
    (place / "q.jsonl").write_text('{"question": "ab"}\n{"question": "cd"}\n')
    words = ["--model", "tiny", "--data", "q.jsonl", "--max-completion-length", 8, "--verifier-workers", 1, "--json",
             "--device", "cpu", "--temperature", 1]  # fmt: skip
    runs = [("sample", "--tree", "2,2,1,1", "--overwrite", "--output", "out.jsonl"), ("eval", "--k", 3)]
    for run in runs:
        code, out, err = call(*run, *words, "--verifier", "letters:fail")
        assert (code, json.loads(out)["verifier_errors"]) == (0, 6)
        assert re.fullmatch(
            r"warning: the verifier failed for all 6 answers, so none has a reward; the first error: .*"
            r"fail: ValueError: no such unit",
            err.splitlines()[-1],
        )
        assert "warning" not in call(*run, *words, "--verifier", "letters:half")[2]  # some of its verdicts failed


# --- finished work is kept -----------------------------------------------------------------------------------------


def failing_after(monkeypatch: pytest.MonkeyPatch, requests: int, error: Callable[[], BaseException]) -> None:
    from ibtpo.engines.transformers import TransformersEngine

    real, seen = TransformersEngine.generate, []

    async def generate(self: Any, *arguments: Any) -> Any:
        seen.append(1)
        if len(seen) > requests:
            raise error()
        return await real(self, *arguments)

    monkeypatch.setattr(TransformersEngine, "generate", generate)


def test_an_engine_that_fails_keeps_the_finished_trees_and_resume_makes_the_rest(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibtpo.errors import EngineError

    letters(place)
    assert sample(call, "--max-in-flight", 1, output="whole.jsonl")[0] == 0
    with monkeypatch.context() as patch:
        failing_after(patch, 7, lambda: EngineError("the power went out"))
        code, _, err = sample(call, "--max-in-flight", 1)
    assert_one_message(code, err, r"prompt 'q2': .* the power went out; 2 of 4 trees are kept, go on with --resume")
    finished = (place / "out.jsonl.partial").read_bytes()
    assert finished.count(b"\n") == 2
    assert_one_message(*sample(call)[::2], r"out\.jsonl\.partial exists already; give --resume")
    assert sample(call, "--max-in-flight", 1, "--resume")[0] == 0
    assert (place / "out.jsonl").read_bytes().startswith(finished)
    ids = [
        [(t.id, t.completion_ids(i)) for t in read_trees(place / f) for i in range(3)]
        for f in ("whole.jsonl", "out.jsonl")
    ]
    assert ids[0] == ids[1]


def test_an_engine_that_never_works_leaves_nothing_to_clean_up(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibtpo.errors import EngineError

    letters(place, 1)
    failing_after(monkeypatch, 0, lambda: EngineError("no device"))
    assert_one_message(*sample(call)[::2], r"prompt 'q0': a rollout failed 3 times: no device")
    code, _, err = call(
        "eval", "--model", "tiny", "--data", "q.jsonl", "--output", "e.json", "--verifier", "letters:more_a"
    )
    assert_one_message(code, err, r"prompt 'q0': a rollout failed 3 times: no device")
    assert not [p.name for p in place.iterdir() if p.name.startswith(("out", "e."))]


def test_an_evaluation_that_fails_keeps_its_answers_and_says_where(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibtpo.errors import EngineError

    letters(place)
    failing_after(monkeypatch, 5, lambda: EngineError("the power went out"))
    words = ["--k", 2, "--max-in-flight", 1, "--max-completion-length", 8, "--verifier", "letters:more_a", "--quiet"]
    code, _, err = call("eval", "--model", "tiny", "--data", "q.jsonl", "--output", "e.json", *words)
    assert_one_message(code, err, r"the answers to 2 problems are kept in e\.answers\.jsonl")
    assert [json.loads(line)["id"] for line in (place / "e.answers.jsonl").read_text().splitlines()] == ["q0"] * 2 + [
        "q1"
    ] * 2


def test_weights_that_are_not_numbers_are_named(call: Call, place: Path, tiny_model: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, place / "nan")
    weights = load_file(place / "nan" / "model.safetensors")
    weights = {name: torch.full_like(w, float("nan")) if "norm" in name else w for name, w in weights.items()}
    save_file(weights, place / "nan" / "model.safetensors", metadata={"format": "pt"})
    letters(place, 1)
    assert_one_message(*sample(call, "--model", "nan")[::2], r"prompt 'q0': .*logits are not finite")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splitter", "letters:fail"], r"unknown splitter|the splitter failed"),
        (["--splitter", "os.path:join"], r"the splitter failed: TypeError"),
        (["--branching", "letters:fail"], r"branching rule 'letters:fail' failed: TypeError"),
        (["--branching", "math:sqrt"], r"branching rule 'math:sqrt' failed: TypeError"),
    ],
)
def test_a_splitter_or_rule_that_fails_is_named(words: list[str], message: str, call: Call, place: Path) -> None:
    letters(place, 1)
    assert_one_message(*sample(call, *words)[::2], message)


PARTS: list[tuple[str, dict[str, bytes | str], str]] = [
    ("data in place of trees", {"out.jsonl": ROW}, r"out\.jsonl\.partial:1: tree has no 'prompt_ids'"),
    (
        "a tree of another run",
        {"out.jsonl": GOOD_TREE},
        r"out\.jsonl holds a tree of 't', which --data and --limit leave out",
    ),
    ("a damaged line", {"out.jsonl.partial": GOOD_TREE[:30] + "\n"}, r"out\.jsonl\.partial:1: .* mend the line or"),
    ("a line that is not UTF-8", {"out.jsonl.partial": b'{"id": "\xff"}\n'}, r"out\.jsonl\.partial:1: "),
    ("a deep line", {"out.jsonl.partial": "[" * 100_000 + "\n"}, r"out\.jsonl\.partial:1: "),
]


@pytest.mark.parametrize(("files", "message"), [p[1:] for p in PARTS], ids=[p[0] for p in PARTS])
def test_a_resume_over_something_else_is_refused_and_leaves_it_alone(
    files: dict[str, bytes | str], message: str, call: Call, place: Path
) -> None:
    letters(place, 1)
    write(place, files)
    before = {name: (place / name).read_bytes() for name in files}
    assert_one_message(*sample(call, "--resume")[::2], message)
    assert {name: (place / name).read_bytes() for name in files} == before


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", b"plain\n", b"\x1f\x8b\x08" + b"\xff" * 60])
def test_a_resume_of_broken_gzip_names_the_file(content: bytes, call: Call, place: Path) -> None:
    letters(place, 1)
    (place / "out.jsonl.gz").write_bytes(content)
    code, _, err = sample(call, "--resume", output="out.jsonl.gz")
    assert_one_message(code, err, r"out\.jsonl\.gz: broken gzip data")
    assert (place / "out.jsonl.gz").read_bytes() == content
