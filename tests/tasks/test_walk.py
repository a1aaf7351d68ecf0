"""The embedded task, its verifier, and the embedded model's format and strength."""

from collections import Counter
from pathlib import Path

import pytest

from ibtpo.errors import ConfigError, DataError
from ibtpo.tasks import walk
from ibtpo.verify.walk import read_walk, walk_reward

NANO = Path(walk.__file__).parents[1] / "assets" / "nano"
MOVES = (9, 4, -8, -2)
RIGHT = "+9 = 26.\n\n+9 = 35.\n\n-2 = 33.\n\nDone."
PROBLEM = walk.problem(walk.Walk(MOVES, target=33, start=17))


def score(text: str, start: int = 17, target: int = 33) -> float | None:
    return walk_reward([text], start=[start], target=[target], moves=[MOVES])[0]


# --- the task


def test_train_and_test_share_no_moves_with_target_so_no_problem_either() -> None:
    sides = [
        {(*problem["moves"], problem["target"]) for problem in walk.make_problems(split, 2000)}  # type: ignore[arg-type]
        for split in ("train", "test")
    ]
    assert not sides[0] & sides[1]
    # By construction: the split is a function of moves and target, and a tenth of them are of the test split.
    every = [(a, b, -c, -d) for a in walk.LARGE for b in walk.SMALL for c in walk.LARGE for d in walk.SMALL]
    test = sum(walk.split_of(moves, target) == "test" for moves in every for target in walk.VALUES)
    assert 0.09 < test / (100 * len(every)) < 0.11


def test_the_split_of_known_problems_never_changes() -> None:
    assert [walk.split_of(MOVES, target) for target in range(30, 38)].index("test") == 6
    assert walk.make_problems("test", 1)[0]["id"] == "walk-38-80-+11+5-9-2"


def test_only_moves_that_stay_inside_are_legal() -> None:
    assert walk.next_values(99, (12, 5, -12, -5)) == [(-12, 87), (-5, 94)]


def test_distances_are_those_of_shortest_walks() -> None:
    left = walk.distances(MOVES, 33)
    assert (left[33], left[24], left[35], left[26], left[17]) == (0, 1, 1, 2, 3)
    assert walk.distances((6, 2, -6, -2), 1)[50] == 100  # there is none


def test_problems_need_one_to_eight_moves_and_most_are_near_or_far() -> None:
    problems = walk.make_problems("test", 400)
    needed = Counter(walk.distances(tuple(p["moves"]), p["target"])[p["start"]] for p in problems)
    assert sorted(needed) == list(range(1, 9))
    assert all(55 <= needed[n] <= 105 for n in (1, 2, 7))  # 76 each; one standard deviation is 8
    assert 70 <= needed[8] <= 120  # 95
    assert all(8 <= needed[n] <= 34 for n in (3, 4, 5, 6))  # 19 each; one standard deviation is 4.3


def test_gold_answers_of_both_splits_score_one() -> None:
    for split in ("train", "test"):
        problems = walk.make_problems(split, 1000)  # type: ignore[arg-type]
        texts = [walk.gold_answer(problem) for problem in problems]
        columns = {name: [problem[name] for problem in problems] for name in ("start", "target", "moves")}
        assert walk_reward(texts, **columns) == [1.0] * len(problems)


def test_a_gold_answer_is_a_shortest_walk() -> None:
    assert sorted(walk.gold_answer(PROBLEM).replace("Done.", "").split("\n\n")[:-1])[0].startswith("+9")
    assert walk.gold_answer(PROBLEM).count("\n\n") == 3
    with pytest.raises(DataError, match="no walk of 1 to 8 moves leads from 50 to 1"):
        walk.gold_answer({"id": "w", "start": 50, "target": 1, "moves": [6, 2, -6, -2]})


def test_same_seed_gives_the_same_problems_and_another_seed_gives_others() -> None:
    first = walk.make_problems("train", 50, seed=3)
    assert first == walk.make_problems("train", 50, seed=3)
    assert first[:20] == walk.make_problems("train", 20, seed=3)
    assert first != walk.make_problems("train", 50, seed=4)
    assert len({problem["id"] for problem in first}) == 50


def test_a_problem_shows_start_target_and_moves() -> None:
    assert PROBLEM["question"] == "From 17 reach 33 with +9, +4, -8 or -2.\n"
    assert PROBLEM["id"] == "walk-17-33-+9+4-8-2"
    assert (PROBLEM["answer"], PROBLEM["moves"]) == ("33", [9, 4, -8, -2])


def test_wrong_requests_say_what_is_there() -> None:
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        walk.make_problems("tests", 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n must be from 0 to 10000, got 10001"):
        walk.make_problems("test", 10_001)


# --- the verifier


def test_a_right_walk_scores_one_also_as_a_message_and_with_blanks_around_it() -> None:
    assert score(RIGHT) == 1.0
    assert score(f"  {RIGHT}\n") == 1.0
    message = [{"role": "assistant", "content": RIGHT}]
    assert walk_reward([message], start=[17], target=[33], moves=[MOVES]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Done.",  # no step
        RIGHT.replace("Done.", "Stuck."),
        RIGHT.replace("Done.", ""),
        RIGHT + "\n\nDone.",
        RIGHT.replace("Done.", "+9 = 42.\n\nDone."),  # walked on
        RIGHT.replace("= 26", "= 27"),  # wrong arithmetic
        RIGHT.replace("+9 = 35.\n\n-2 = 33", "+7 = 33"),  # no move of this problem
        RIGHT.replace("-2 = 33", "2 = 33"),  # no sign
        RIGHT.replace("\n\n", "\n"),  # no blank lines
        "x" * 100_000,
        "+9 = 26.\n\n" * 15_000,
        "\n\n" * 50_000 + "Done.",
        "+٩ = 26.\n\n+9 = 35.\n\n-2 = 33.\n\nDone.",  # an Arabic-Indic nine
        "\x00\ud800",
    ],
)
def test_wrong_walks_and_garbage_score_zero(text: str) -> None:
    assert score(text) == 0.0


def test_a_walk_may_not_leave_the_range_nor_take_more_than_its_moves() -> None:
    assert score("+9 = 104.\n\n-8 = 96.\n\nDone.", 95, 96) == 0.0
    assert score("-2 = -1.\n\n+4 = 3.\n\nDone.", 1, 3) == 0.0
    nines = [f"+9 = {v + 9}.\n\n" for v in range(0, 81, 9)]
    assert score("".join(nines[:8]) + "Done.", 0, 72) == 1.0  # eight moves
    assert score("".join(nines) + "Done.", 0, 81) == 0.0


def test_values_are_read_up_to_the_first_wrong_step() -> None:
    assert read_walk(["+9 = 26.", "-2 = 24.", "+9 = 32."], 17, MOVES) == [26, 24]
    assert read_walk(["+8 = 25."], 17, MOVES) == []


# --- the model


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(NANO)


def test_any_text_survives_the_tokenizer(tokenizer) -> None:  # type: ignore[no-untyped-def]
    problem = walk.make_problems("test", 1)[0]
    for text in (
        problem["question"] + walk.gold_answer(problem),
        "  héllo , world !  漢字 007 100 .\n\n\n  x\t",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("Stuck.") == tokenizer.encode("Stuck.", add_special_tokens=False)


def test_tokens_of_prompt_and_answer_are_those_of_the_whole(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for problem in walk.make_problems("train", 100):
        question, answer = problem["question"], walk.gold_answer(problem)
        assert tokenizer.encode(question) + tokenizer.encode(answer) == tokenizer.encode(question + answer)
        assert len(tokenizer.encode(question)) == 13
        assert len(tokenizer.encode(answer)) == 4 * answer.count("\n\n") + 1


def test_the_model_folder_is_complete_and_small() -> None:
    files = {path.name: path.stat().st_size for path in NANO.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) < 6_000_000


def test_the_model_answers_between_15_and_35_percent_of_test_problems(tokenizer) -> None:  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(NANO).eval()
    assert model.dtype == torch.float32
    problems = walk.make_problems("test", 400)
    ids = tokenizer([problem["question"] for problem in problems], return_tensors="pt")
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=48, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    texts = tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    rewards = walk_reward(texts, **{name: [p[name] for p in problems] for name in ("start", "target", "moves")})
    assert 0.15 < sum(r or 0 for r in rewards) / len(rewards) < 0.35
    steps = sum(len(text.split("\n\n")) for text in texts) / len(texts)
    assert 5 < steps < 9
