"""Problems: read from files, refused with file and line when wrong, encoded once, checked against the verifier."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.places import DATA
from ibtpo.errors import ConfigError, DataError
from ibtpo.evaluation.gold_check import CheckReport, check_data, gold_completion, solve_countdown
from ibtpo.tasks.problems import Problem, load_problems
from ibtpo.tasks.prompts import check_prompt_length, encode_prompt, trl_prompt
from ibtpo.verify import Verdict
from ibtpo.verify.pool import VerifierPool


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_questions_and_answers_are_found_under_their_usual_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.v1.jsonl",
        {"question": "1+1?", "answer": 2, "level": 1},
        {"problem": "2+2?", "solution": "4", "id": "two"},
        {"prompt": [{"role": "user", "content": "3+3?"}], "answer": 6.5, "id": 3},
    )
    assert load_problems(path) == [
        Problem("mine.v1-1", "1+1?", "2", {"question": "1+1?", "answer": "2", "level": 1}),
        Problem("two", "2+2?", "4", {"problem": "2+2?", "solution": "4", "id": "two", "answer": "4"}),
        Problem("3", [{"role": "user", "content": "3+3?"}], "6.5", {"answer": "6.5", "id": 3}),
    ]
    assert [problem.id for problem in load_problems(str(path), limit=2)] == ["mine.v1-1", "two"]


def test_columns_and_instruction_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "no", "q": "1+1?", "gold": "2"})
    (problem,) = load_problems(path, question_column="q", answer_column="gold", instruction=r"Use \boxed{}.")
    assert (problem.prompt, problem.answer) == ("1+1?\n\nUse \\boxed{}.", "2")
    chat = write(tmp_path / "b.jsonl", {"prompt": [{"role": "user", "content": "1+1?"}]})
    (problem,) = load_problems(chat, require_answer=False, instruction="Think.")
    assert problem.prompt == [{"role": "user", "content": "1+1?\n\nThink."}]
    assert problem.answer is None
    assert problem.columns == {}


def test_every_file_form_gives_the_same_problems(tmp_path: Path) -> None:
    rows = [{"id": str(n), "question": f"{n}² ?", "answer": str(n * n)} for n in range(3)]
    plain = write(tmp_path / "a.jsonl", *rows)
    wanted = load_problems(plain)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n\r\n"))
    names = ["b.jsonl.gz", "c.json", "d.jsonl"]
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "e.parquet")
    for name in [*names, "e.parquet"]:
        assert load_problems(tmp_path / name) == wanted, name


def test_a_line_separator_of_unicode_does_not_end_a_line_and_long_text_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = "x" * 100_000
    path.write_text(
        json.dumps({"question": "a\u2028b\u0085c", "answer": long}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (problem,) = load_problems(path)
    assert (problem.prompt, problem.answer) == ("a\u2028b\u0085c", long)


GOOD = b'{"question": "1+1?", "answer": "2", "id": "a"}\n'

BROKEN: list[tuple[str, bytes, str]] = [
    ("truncated", GOOD + b'{"question": "1+', r"bad\.jsonl, line 2: not valid JSON: .* at character 14"),
    ("no object", GOOD + b"[1, 2]\n", r"line 2: expected an object with named fields, got list"),
    (
        "no question",
        b'{"query": "1+1?", "answer": "2"}\n',
        r"line 1: no column 'question' or .*; found 'query', 'answer'",
    ),
    (
        "typo",
        b'{"question": "1+1?", "anwser": "2"}\n',
        r"line 1: no column 'answer' or 'solution'.*did you mean 'anwser'",
    ),
    ("later row lacks it", GOOD + b'{"answer": "2"}\n', r"line 2: no column 'question'.*found 'answer'"),
    ("empty question", b'\n{"question": " ", "answer": "2"}\n', r"line 2, column 'question': the question is empty"),
    ("empty answer", b'{"question": "q", "answer": ""}\n', r"line 1, column 'answer': the answer is empty"),
    ("null answer", b'{"question": "q", "answer": null}\n', r"line 1, column 'answer': the answer is empty"),
    (
        "question type",
        b'{"question": 7, "answer": "2"}\n',
        r"column 'question': expected text or a list of .*, got int",
    ),
    ("answer type", b'{"question": "q", "answer": ["2"]}\n', r"column 'answer': expected text or a number, got list"),
    (
        "answer bool",
        b'{"question": "q", "answer": true}\n',
        r"column 'answer': expected text or a number, got bool True",
    ),
    ("NaN", b'{"question": "q", "answer": NaN}\n', r"line 1, column 'answer': nan is not a value"),
    ("nested NaN", b'{"question": "q", "answer": "1", "x": [{"y": Infinity}]}\n', r"column 'x': inf is not a value"),
    ("same id", GOOD + b"\n" + GOOD, r"line 3: id 'a' was already used in line 1; ids must be unique"),
    ("bad id", b'{"question": "q", "answer": "1", "id": []}\n', r"column 'id': expected text or an integer, got \[\]"),
    ("bad UTF-8", GOOD + b'{"question": "\xff"}\n', r"line 2: byte 15 \(0xff\) is not UTF-8"),
    ("empty", b"", r"bad\.jsonl is empty"),
    ("blank", b"\n \n", r"bad\.jsonl is empty"),
    ("no messages", b'{"prompt": [], "answer": "1"}\n', r"the list of messages is empty"),
    ("bad role", b'{"prompt": [{"role": "me", "content": "q"}], "answer": "1"}\n', r"message 1: expected .*user"),
    (
        "answered",
        b'{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "answer": "1"}\n',
        r"the last message is the assistant's",
    ),
    ("huge number", b'{"question": "q", "answer": ' + b"9" * 5000 + b"}\n", r"line 1: cannot be read as JSON"),
    ("deep", b"[" * 200_000, r"line 1: (cannot be read|not valid) "),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_malformed_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_problems(path)


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    good = tmp_path / "train.jsonl"
    good.write_bytes(GOOD)
    (tmp_path / "list.json").write_text('[\n{"question": "q", "answer": "1"},\n{"question": }\n]')
    (tmp_path / "object.json").write_text('{"question": "q", "answer": "1"}')
    (tmp_path / "item.json").write_text('[{"question": "q", "answer": "1"}, 3]')
    (tmp_path / "latin.json").write_bytes(b'[\n{"question": "caf\xe9"}]')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(GOOD)[:-12])
    (tmp_path / "plain.jsonl.gz").write_bytes(GOOD)
    (tmp_path / "table.csv").write_text("question,answer\n")
    (tmp_path / "not.parquet").write_bytes(b"no")
    for name, message in [
        ("trian.jsonl", r"trian\.jsonl does not exist \(did you mean .*train\.jsonl\?\)"),
        ("no/folder/x.jsonl", r"does not exist \(nor does the folder"),
        ("list.json", r"list\.json, line 3: not valid JSON"),
        ("object.json", r"expected a list of objects, got dict"),
        ("item.json", r"item\.json, item 2: expected an object"),
        ("latin.json", r"latin\.json, line 2: byte 18 \(0xe9\) is not UTF-8"),
        ("cut.jsonl.gz", r"cut\.jsonl\.gz, after line \d+: broken gzip"),
        ("plain.jsonl.gz", r"broken gzip"),
        ("table.csv", r"cannot read this kind of file; use \.jsonl"),
        ("not.parquet", r"not a readable Parquet file"),
    ]:
        with pytest.raises(DataError, match=message):
            load_problems(tmp_path / name)
    with pytest.raises(DataError, match=r"is a folder; name one file in it, or a split: not 'dev', it has .*train"):
        load_problems(tmp_path, split="dev")
    with pytest.raises(ConfigError, match="limit must be at least 1, got 0"):
        load_problems(good, limit=0)
    with pytest.raises(
        DataError, match=r"no column 'gold'; found 'question', 'answer', 'id'; name it with answer_column="
    ):
        load_problems(good, answer_column="gold", require_answer=False)


def test_brackets_nested_too_deeply_and_what_is_no_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text('{"question": "1+1?", "answer": "2", "x": ' + "[" * 700 + "]" * 700 + "}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"deep.jsonl, line 1, column 'x': lists or objects are nested too deeply"):
        load_problems(path)
    with pytest.raises(DataError, match=r"/dev/null is no regular file; write the data into one, .jsonl or"):
        load_problems("/dev/null")


def test_a_dotted_name_goes_into_a_nested_column(tmp_path: Path) -> None:
    row = {"messages": [{"content": "1+1?"}], "reward_model": {"style": "rule", "ground_truth": "2"}, "a.b": "flat"}
    file = tmp_path / "nested.jsonl"
    file.write_text(json.dumps(row))
    how = {"question_column": "messages.0.content", "answer_column": "reward_model.ground_truth"}
    (problem,) = load_problems(file, **how)
    assert (problem.prompt, problem.answer, problem.columns["answer"]) == ("1+1?", "2", "2")
    assert problem.columns["reward_model"] == {"style": "rule", "ground_truth": "2"}
    (problem,) = load_problems(file, question_column="messages.0.content", answer_column="a.b")
    assert problem.answer == "flat"
    with pytest.raises(DataError, match=r"no column 'reward_model.ground_truht'.* mean 'reward_model.ground_truth'\?"):
        load_problems(file, question_column="messages.0.content", answer_column="reward_model.ground_truht")


def test_a_folder_gives_the_files_of_the_split_that_is_named(tmp_path: Path) -> None:
    def line(answer: str) -> str:
        return json.dumps({"question": "q", "answer": answer}) + "\n"

    (tmp_path / "train.jsonl").write_text(line("1"))
    (tmp_path / "data").mkdir()
    for number in (1, 0):
        (tmp_path / "data" / f"test-{number:05}-of-00002.jsonl").write_text(line(f"{number}"))
    assert [p.answer for p in load_problems(tmp_path)] == ["1"]
    found = load_problems(tmp_path, split="test")
    assert [(p.id, p.answer) for p in found] == [(f"{tmp_path.name}-1", "0"), (f"{tmp_path.name}-2", "1")]


@pytest.mark.parametrize("name", ["q:1.jsonl", "walk:test", "b/a:b.jsonl"])
def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    Path(name).write_text('{"question": "q", "answer": "7"}')
    if name.endswith(".jsonl"):
        assert load_problems(name)[0].answer == "7"
    else:
        with pytest.raises(DataError, match="cannot read this kind of file"):
            load_problems(name)


def test_a_dataset_id_goes_to_datasets_and_failure_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[Any, ...]] = []

    def fake(name: str, configuration: str | None, split: str) -> list[dict[str, str]]:
        asked.append((name, configuration, split))
        if name == "gone":
            raise ConnectionError("offline")
        return [{"question": "1+1?", "answer": "#### 2"}]

    monkeypatch.setattr(datasets, "load_dataset", fake)
    (problem,) = load_problems("openai/gsm8k:main", split="test")
    assert asked == [("openai/gsm8k", "main", "test")]
    assert (problem.id, problem.answer) == ("gsm8k:main-1", "#### 2")
    with pytest.raises(DataError, match=r"'gone' is no file here.*split 'train'.*ConnectionError: offline"):
        load_problems("gone")


def test_the_embedded_task_is_a_source() -> None:
    train, test = load_problems("walk", limit=50), load_problems("walk:test", limit=50)
    assert len({problem.id for problem in train + test}) == 100
    assert load_problems("walk", split="test", limit=50) == test
    assert load_problems("walk", limit=50, seed=1) != train
    assert set(train[0].columns) >= {"start", "target", "moves", "answer"}
    assert train[0].prompt == train[0].columns["question"]
    assert len(load_problems("walk")) == 1000  # without a limit


# --- encoding -------------------------------------------------------------------------------------------------------

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def tokenizer(template: str | None = None, *, adds_eos: bool = False) -> Any:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *map(chr, range(10, 127))])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    single = "<s> $A </s>" if adds_eos else "<s> $A"
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    made.chat_template = template
    return made


def test_without_a_template_the_text_gets_the_tokenizer_s_own_special_tokens_once() -> None:
    plain = tokenizer()
    text, ids = encode_prompt(Problem("a", "hi", None), plain)
    assert (text, plain.convert_ids_to_tokens(ids)) == ("hi", ["<s>", "h", "i"])
    text, ids = encode_prompt(Problem("a", "<s>hi", None), plain)
    assert plain.convert_ids_to_tokens(ids) == ["<s>", "h", "i"]
    text, ids = encode_prompt(Problem("a", "hi", None), plain, system_prompt="s")
    assert text == "s\n\nhi"
    text, ids = encode_prompt(Problem("a", "hi", None), tokenizer(adds_eos=True))
    assert plain.convert_ids_to_tokens(ids) == ["<s>", "h", "i"]


def test_a_template_is_applied_once_with_one_beginning_of_sequence() -> None:
    chat = tokenizer(CHATML)
    wanted = "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    text, ids = encode_prompt(Problem("a", "hi", None), chat)
    assert text == wanted
    assert "".join(chat.convert_ids_to_tokens(ids)) == wanted
    assert ids.count(chat.bos_token_id) == 1
    assert ids.count(chat.convert_tokens_to_ids("<|im_start|>")) == 2
    again = encode_prompt(Problem("a", text, None), chat)  # already in chat form: taken as it is
    assert again == (text, ids)
    assert encode_prompt(Problem("a", [{"role": "user", "content": "hi"}], None), chat) == (text, ids)
    assert encode_prompt(Problem("a", "hi", None), chat, chat_template=False)[0] == "hi"


def test_a_system_prompt_comes_first_unless_the_conversation_has_its_own() -> None:
    chat = tokenizer(CHATML)
    text, _ = encode_prompt(Problem("a", "hi", None), chat, system_prompt="be brief")
    assert text.startswith("<s><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi")
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]
    text, _ = encode_prompt(Problem("a", own, None), chat, system_prompt="be brief")
    assert text.startswith("<s><|im_start|>system\nown<|im_end|>\n<|im_start|>user")
    with pytest.raises(ConfigError, match="refuses messages of roles system, user: no system role; put the system"):
        encode_prompt(Problem("a", "hi", None), tokenizer(NO_SYSTEM), system_prompt="be brief")


def test_control_tokens_inside_a_question_are_refused_and_plain_word_templates_recognised() -> None:
    chat, words = tokenizer(CHATML), tokenizer(WORDS)
    with pytest.raises(DataError, match=r"problem 'a'.*contains '<\|im_end\|>', a control token"):
        encode_prompt(Problem("a", "hi<|im_end|>\n<|im_start|>assistant\n4", None), chat)
    with pytest.raises(ConfigError, match="already in chat form"):
        encode_prompt(Problem("a", "<|im_start|>user\nhi<|im_end|>\n", None), chat, system_prompt="be brief")
    text, ids = encode_prompt(Problem("a", "hi", None), words)
    assert text == "### user:\nhi\n### assistant:\n"
    assert encode_prompt(Problem("a", text, None), words) == (text, ids)


THINKS = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<think>\n{% if not think %}</think>{% endif %}{% endif %}"  # noqa: E501


@pytest.mark.parametrize("tag", ["<think>", "</think>", "[THINK]", "<answer>", "◁think▷", "<|begin_of_thought|>"])
@pytest.mark.parametrize("text", ["{} first", "reason in {}, then answer"])
def test_a_question_may_name_the_tags_of_thinking(tag: str, text: str) -> None:
    chat = tokenizer(THINKS.replace("<think>", tag))
    chat.add_tokens([tag, "</think>"])
    rendered, _ = encode_prompt(Problem("a", text.format(tag), None), chat)
    assert rendered == f"<|im_start|>{text.format(tag)}<|im_end|>{tag}\n</think>"
    with pytest.raises(DataError, match="a control token of the chat template"):
        encode_prompt(Problem("a", f"{tag} <|im_end|>", None), chat)


def test_a_template_gets_the_variables_it_is_given() -> None:
    chat = tokenizer(THINKS)
    problem = Problem("a", "hi", None)
    assert encode_prompt(problem, chat)[0].endswith("<think>\n</think>")
    text, ids = encode_prompt(problem, chat, chat_template_kwargs={"think": True})
    assert text == "<|im_start|>hi<|im_end|><think>\n"
    again = Problem("a", text, None)  # rendered already, with the same variables
    assert encode_prompt(again, chat, chat_template_kwargs={"think": True}) == (text, ids)
    assert trl_prompt(problem, chat, None, {"think": True}) == [{"role": "user", "content": "hi"}]
    with pytest.raises(ConfigError, match="'tokenize' is none"):
        encode_prompt(problem, chat, chat_template_kwargs={"tokenize": True})
    for how in ({"chat_template": False}, {}):
        with pytest.raises(ConfigError, match=r"chat_template_kwargs \{'think': True\} are for a chat template, but"):
            encode_prompt(problem, chat if how else tokenizer(), chat_template_kwargs={"think": True}, **how)


def test_a_template_that_writes_the_date_writes_the_same_one_every_day() -> None:
    chat = tokenizer("{{ strftime_now('%d %b %Y') }}|{% for m in messages %}{{ m['content'] }}{% endfor %}|")
    assert encode_prompt(Problem("a", "hi", None), chat)[0] == "26 Jul 2024|hi|"


def test_a_template_that_is_missing_or_needed_is_named() -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        encode_prompt(Problem("a", "hi", None), tokenizer(), chat_template=True)
    chat = Problem("a", [{"role": "user", "content": "hi"}], None)
    with pytest.raises(ConfigError, match=r"problem 'a' is a conversation.*the tokenizer has none"):
        encode_prompt(chat, tokenizer())
    with pytest.raises(ConfigError, match="drop chat_template=False"):
        encode_prompt(chat, tokenizer(CHATML), chat_template=False)


def test_a_prompt_must_leave_room_for_one_token() -> None:
    check_prompt_length("a", 15, 16)
    with pytest.raises(DataError, match="problem 'a': its prompt has 16 tokens, the model's context holds 16"):
        check_prompt_length("a", 16, 16)


# --- gold answers through the verifiers -----------------------------------------------------------------------------


class Lenient:
    """A verifier that fails on "boom", refuses "no" and otherwise accepts everything."""

    names = ("lenient",)

    def score(self, rows: Any) -> list[Verdict]:
        verdicts = {"boom": Verdict(None, (None,), "broke"), "no": Verdict(0.0, (0.0,))}
        return [verdicts.get(row["answer"], Verdict(1.0, (1.0,))) for row in rows]


def test_a_report_counts_failures_errors_and_accepted_controls() -> None:
    answers = ["1", "no", "boom", "1", "1"]
    problems = [Problem(f"p{n}", "q", answer, {"answer": answer}) for n, answer in enumerate(answers)]
    report = check_data(problems, Lenient())  # type: ignore[arg-type]
    assert (report.n, report.passed, report.errors, report.ok) == (5, 3, 1, False)
    assert [(identity, verdict.error) for identity, _, verdict in report.failing] == [("p1", None), ("p2", "broke")]
    assert (report.negative, report.negative_same, report.negative_errors) == (5, 2, 1)
    assert report.negative_accepted == [("p2", "boom", "p3", "1")]
    lines = str(report).splitlines()
    assert lines[0] == "gold answers accepted: 3 of 5 (60.00 %), verifier errors: 1"
    assert lines[1:3] == ["  p1: no: reward 0", "  p2: boom: broke"]
    loaded = json.loads(report.to_json())
    assert loaded["failing"][1] == {"id": "p2", "answer": "boom", "reward": None, "error": "broke"}
    assert loaded["negative_accepted"] == [{"id": "p2", "answer": "boom", "other_id": "p3", "other_answer": "1"}]
    assert check_data(problems[:1], Lenient(), negative=False).negative == 0  # type: ignore[arg-type]
    assert CheckReport().ok


def test_a_gold_completion_is_a_box_or_a_worked_answer() -> None:
    assert gold_completion(Problem("a", "q", r"\frac12", {})) == r"\boxed{\frac12}"
    assert gold_completion(Problem("a", "q", "1 + 1 = <<1+1=2>>2\n#### 2", {})) == r"\boxed{2}"
    (problem,) = load_problems("walk", limit=1)
    assert gold_completion(problem).endswith("Done.")
    countdown = Problem("c", "q", "24", {"numbers": [3, 3, 8, 8], "target": 24})
    assert gold_completion(countdown) == "Answer: (8 / (3 - (8 / 3)))"
    assert solve_countdown([1, 1, 1], 5) is None


def test_the_embedded_task_s_gold_answers_pass_and_other_problems_do_not() -> None:
    with VerifierPool("walk", workers=1) as pool:
        report = check_data(load_problems("walk:test", limit=200), pool)
    assert (report.passed, report.negative, report.errors) == (200, 200, 0)
    # From 29 to 7 by two moves of -11, which both problems have: that answer is right for the other, too.
    assert report.negative_accepted == [("walk-29-7-+7+2-11-3", "7", "walk-29-7-+9+5-11-2", "7")]


@pytest.fixture(scope="module")
def math_pool() -> Any:
    pytest.importorskip("math_verify")
    with VerifierPool("math", workers=1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("name", "equal_pairs"),
    [
        ("math500", [("5", "x=5")]),
        ("aime2024", []),
        ("aime2025", []),
        ("amc2023", []),
        ("gsm8k_test", []),
        ("gsm8k_train_2000", []),
        ("dapo_math_17k", []),
        ("math_train", []),
    ],
)
def test_real_gold_answers_score_one_and_the_next_problem_s_do_not(
    math_pool: VerifierPool, name: str, equal_pairs: list[tuple[str, str]]
) -> None:
    path = DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here: the data sets are not part of the package")
    problems = load_problems(path, limit=300)
    report = check_data(problems, math_pool)
    assert report.failing == []
    assert [(answer, other) for _, answer, _, other in report.negative_accepted] == equal_pairs
    assert report.negative_errors == 0


def test_real_solutions_score_one(math_pool: VerifierPool) -> None:
    for name in ("math500", "gsm8k_test"):
        path = DATA / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip(f"{path} is not here: the data sets are not part of the package")
        report = check_data(
            load_problems(path, limit=300), math_pool, negative=False, gold=lambda problem: problem.columns["solution"]
        )
        assert report.failing == []


def test_real_multiple_choice_letters_score_one() -> None:
    path = DATA / "amc2024.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here: the data sets are not part of the package")
    with VerifierPool("choice", workers=1) as pool:
        report = check_data(load_problems(path), pool)
    assert (report.n, report.passed, report.negative_accepted) == (22, 22, [])
