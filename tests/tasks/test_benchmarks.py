"""The benchmarks: their table, GPQA's CSV, DAPO-Math's slices, IFEval's rows, and evaluation by name."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from helpers.places import DATA
from ibtpo.errors import ConfigError, DataError
from ibtpo.tasks.benchmarks import (
    BENCHMARKS,
    DAPO_OVERLAP,
    is_held_out,
    load_benchmark,
    question_key,
    split_dapo,
)
from ibtpo.tasks.gpqa import load_gpqa

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data sets are not at {DATA}")
FILES = {
    "math500": "math500",
    "aime2024": "aime2024",
    "aime2025": "aime2025",
    "amc2023": "amc2023",
    "amc2024": "amc2024",
    "gsm8k": "gsm8k_test",
    "ifeval": "ifeval_input_data",
}
COLUMNS = ["Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
ROW = ["r1", " Which?\n", " right ", "wrong 1", "wrong, 2", "wrong 3"]


def gpqa(path: Path, *rows: list[str], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_the_table_names_every_benchmark_of_the_paper_with_its_k(call) -> None:
    code, out, _ = call("benchmarks")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:10]] == list(BENCHMARKS)
    assert {b.k for b in BENCHMARKS.values()} == {32}
    assert {b.name: b.verifier for b in BENCHMARKS.values() if b.verifier != "math"} == {
        "amc2024": "choice",
        "gpqa_diamond": "choice",
        "ifeval": "ifeval",
    }


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_real_files_have_as_many_problems_as_the_table_says(name: str) -> None:
    benchmark = BENCHMARKS[name]
    problems = load_benchmark(benchmark, DATA / f"{FILES[name]}.jsonl")
    assert len(problems) == benchmark.problems
    assert all(p.prompt.endswith(benchmark.instruction or p.prompt) for p in problems)
    if benchmark.verifier == "choice":
        assert all(p.answer in p.columns["choices"] for p in problems)


# --- GPQA ----------------------------------------------------------------------------------------------------------


def test_gpqa_shows_the_options_and_keeps_the_letter_of_the_right_one(tmp_path: Path) -> None:
    [problem] = load_gpqa(gpqa(tmp_path / "g.csv", ROW), instruction="Choose.")
    choices = problem.columns["choices"]
    assert choices[problem.answer] == "right"
    assert sorted(choices.values()) == ["right", "wrong 1", "wrong 3", "wrong, 2"]
    listed = "\n".join(f"({letter}) {choices[letter]}" for letter in "ABCD")
    assert problem.prompt == f"Which?\n\n{listed}\n\nChoose."
    assert problem.id == "r1"


def test_gpqa_shuffles_a_row_alike_wherever_it_stands(tmp_path: Path) -> None:
    rows = [[f"r{i}", f"q{i}", *ROW[2:]] for i in range(200)]
    forward = load_gpqa(gpqa(tmp_path / "a.csv", *rows))
    backward = load_gpqa(gpqa(tmp_path / "b.csv", *reversed(rows)))
    assert {p.id: p.columns for p in forward} == {p.id: p.columns for p in backward}
    letters = Counter(p.answer for p in forward)
    assert all(30 <= letters[letter] <= 70 for letter in "ABCD")  # 50 each expected, 6 the standard deviation
    assert [p.answer for p in forward[:8]] == list("ADBCCABD")  # pinned: results must stay comparable


def test_gpqa_without_record_ids_takes_the_question_for_the_seed(tmp_path: Path) -> None:
    rows = [[f"q{i}", *ROW[2:]] for i in range(20)]
    forward = load_gpqa(gpqa(tmp_path / "a.csv", *rows, columns=COLUMNS[1:]))
    backward = load_gpqa(gpqa(tmp_path / "b.csv", *reversed(rows), columns=COLUMNS[1:]))
    assert [p.columns for p in forward] == [p.columns for p in reversed(backward)]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], COLUMNS, "has no rows"),
        ([ROW], ["id", "question", "answer", "a", "b", "c"], "line 1: no column 'Question', 'Correct Answer', "),
        ([ROW[:-1]], COLUMNS[:-1], "line 1: no column 'Incorrect Answer 3'; expected"),
        ([ROW, ["r2", "q", "", *ROW[3:]]], COLUMNS, "line 4, column 'Correct Answer': empty"),
        ([ROW[:-1]], COLUMNS, "line 2, column 'Incorrect Answer 3': empty"),
        ([[*ROW, "more"]], COLUMNS, "line 2: more cells than the header has columns"),
        ([["r", "q", "a", "b", "c", " a"]], COLUMNS, "line 2: two of the four options are the same text"),
        ([ROW, ROW], COLUMNS, "line 4: the same record as in line 2"),
    ],
)
def test_a_malformed_gpqa_file_is_one_message_with_line_and_column(tmp_path, rows, columns, message) -> None:
    with pytest.raises(DataError) as error:
        load_gpqa(gpqa(tmp_path / "g.csv", *rows, columns=columns))
    assert str(error.value).startswith(str(tmp_path / "g.csv"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "byte 1 is not UTF-8"),
        (b"", "line 1: no column 'Question'"),
        (",".join(COLUMNS).encode() + b'\n"open', "line 2: not valid CSV: unexpected end of data"),
        (b'{"question": "q"}\n', "line 1: no column 'Question'"),
    ],
)
def test_a_file_that_is_not_gpqas_csv_is_told(tmp_path, content, message) -> None:
    (tmp_path / "g.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_gpqa(tmp_path / "g.csv")
    with pytest.raises(DataError, match="is no file; name GPQA's CSV"):
        load_gpqa(tmp_path / "none.csv")


# --- DAPO-Math -----------------------------------------------------------------------------------------------------


def test_a_questions_key_ignores_spacing_case_and_punctuation_but_no_sign() -> None:
    assert question_key("Find $x$ ,  where X+1=2.") == question_key("find x where $x + 1 = 2$")
    assert question_key("z^4 + z^2 + 1") != question_key("z^4 - z^2 + 1")
    assert question_key("求x") != question_key("求出x")


@needs_data
def test_dapos_slices_share_no_question_and_hold_none_of_other_benchmarks() -> None:
    held_out, rest = split_dapo(DATA / "dapo_math_17k.jsonl")
    assert (len(held_out), len(rest)) == (340, 16885)
    assert not {question_key(p.prompt) for p in held_out} & {question_key(p.prompt) for p in rest}
    overlap = set()
    for name in ("math500", "aime2024", "aime2025", "amc2023", "amc2024", "gsm8k"):
        keys = {
            question_key(p.prompt)
            for p in load_benchmark(BENCHMARKS[name], DATA / f"{FILES[name]}.jsonl", instruction="")
        }
        assert not keys & {question_key(p.prompt) for p in (*held_out, *rest)}
        overlap |= keys
    dapo = (json.loads(line) for line in (DATA / "dapo_math_17k.jsonl").open())
    assert overlap & {question_key(row["question"]) for row in dapo} == DAPO_OVERLAP
    loaded = load_benchmark(BENCHMARKS["dapo_heldout"], DATA / "dapo_math_17k.jsonl")
    assert [p.id for p in loaded] == [p.id for p in held_out]


def test_the_rest_of_dapo_is_written_to_train_on(call, tmp_path: Path) -> None:
    rows = [{"id": f"d{i}", "question": f"What is {i} + 1?", "answer": str(i + 1), "lang": "en"} for i in range(200)]
    (tmp_path / "dapo.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, out, err = call("benchmarks", "--rest-of", tmp_path / "dapo.jsonl", "--output", tmp_path / "train.jsonl")
    assert (code, err) == (0, "")
    kept = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert kept == [r for r in rows if not is_held_out(r["question"])]
    held_out = load_benchmark(BENCHMARKS["dapo_heldout"], tmp_path / "dapo.jsonl")
    assert {p.id for p in held_out} == {r["id"] for r in rows} - {r["id"] for r in kept}
    assert 0 < len(held_out) < 20
    assert f"{len(kept)} problems for training; {len(held_out)} others are held out" in out
    assert call("benchmarks", "--rest-of", "x")[0] == 2


# --- IFEval's rows -------------------------------------------------------------------------------------------------


def test_ifeval_rows_lose_the_nulls_of_hub_copies(tmp_path: Path) -> None:
    row = {"key": 7, "prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{"n": 3, "m": None, "z": 0}]}
    (tmp_path / "i.jsonl").write_text(json.dumps(row) + "\n")
    [problem] = load_benchmark(BENCHMARKS["ifeval"], tmp_path / "i.jsonl")
    assert (problem.id, problem.prompt, problem.answer) == ("ifeval-7", "p", None)
    assert problem.columns["kwargs"] == [{"n": 3, "z": 0}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kwargs": None}, "column 'kwargs': expected a list of objects, got None"),
        ({"kwargs": [{}, {}]}, "column 'kwargs': 2 objects for 1 instructions"),
        ({"kwargs": ["{}"]}, "column 'kwargs': expected a list of objects"),
        ({"instruction_id_list": "a:b"}, "column 'instruction_id_list': expected a list of names, got 'a:b'"),
        ({"instruction_id_list": []}, "column 'instruction_id_list': expected a list of names"),
    ],
)
def test_a_malformed_ifeval_row_is_one_message_with_line_and_column(tmp_path, change, message) -> None:
    row = {"key": 7, "prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{}]}
    (tmp_path / "i.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "key": 8, **change}) + "\n")
    with pytest.raises(DataError) as error:
        load_benchmark(BENCHMARKS["ifeval"], tmp_path / "i.jsonl")
    assert f"{tmp_path / 'i.jsonl'}, line 2, {message}" in str(error.value)
    (tmp_path / "i.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    with pytest.raises(DataError, match="line 1: no column 'instruction_id_list'; expected IFEval's"):
        load_benchmark(BENCHMARKS["ifeval"], tmp_path / "i.jsonl")


# --- on the command line -------------------------------------------------------------------------------------------


def test_eval_by_name_takes_prompt_verifier_and_k_from_the_table(call, tiny_model, tmp_path: Path) -> None:
    rows = [{"id": f"m{i}", "question": "abc"[i], "answer": "1"} for i in range(3)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = [
        "--model",
        tiny_model,
        "--device",
        "cpu",
        "--max-completion-length",
        4,
        "--instruction",
        "a",
        "--verifier-workers",
        1,
    ]
    named = ["--benchmark", "math500", "--data", tmp_path / "m.jsonl"]
    code, _, err = call("eval", *words, *named, "--output", tmp_path / "e.json", "--quiet")
    assert code == 0, err
    assert f"note: math500 has 500 problems, {tmp_path / 'm.jsonl'} 3" in err
    record = json.loads((tmp_path / "e.json").read_text())
    assert (record["benchmark"], record["verifier"], record["k"]) == ("math500", "math", 32)
    assert len((tmp_path / "e.answers.jsonl").read_text().splitlines()) == 96


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "math50"], "unknown benchmark 'math50'; did you mean 'math500'?"),
        (["--benchmark", "gpqa_diamond"], "gpqa_diamond comes from a file of yours: name it with --data"),
        (["--benchmark", "gpqa_diamond", "--data", "no.csv"], "no.csv is no file; name GPQA's CSV"),
        ([], "give --benchmark, or --data with problems of yours"),
    ],
)
def test_a_benchmark_that_cannot_be_read_is_told_before_the_model_is_loaded(call, words, message) -> None:
    code, _, err = call("eval", "--model", "nowhere", *words)
    assert code == 2
    assert message in err


def test_an_unknown_limit_is_refused(tmp_path: Path) -> None:
    for name in ("math500", "gpqa_diamond", "dapo_heldout"):
        with pytest.raises(ConfigError, match="limit must be at least 1, got 0"):
            load_benchmark(BENCHMARKS[name], tmp_path / "x.jsonl", limit=0)


def test_the_list_of_benchmarks_loads_nothing_heavy() -> None:
    code = "import sys, ibtpo.tasks.benchmarks; print([m for m in ('torch', 'numpy', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
