"""The embedded task, its verifier, and the embedded model's format and strength."""

from pathlib import Path

import pytest

from ibtpo.errors import ConfigError, DataError
from ibtpo.tasks import walk
from ibtpo.verify.walk import read_walk, walk_reward

NANO = Path(walk.__file__).parents[1] / "assets" / "nano"
MOVES = ["+9", "-4", "*2"]
RIGHT = "17 * 2 = 34.\n\n34 + 9 = 43.\n\n43 - 4 = 39.\n\nDone."


def score(text: str, start: int = 17, target: int = 39) -> float | None:
    return walk_reward([text], start=[start], target=[target], moves=[MOVES])[0]


# --- the task


def test_no_problem_is_in_both_splits_and_a_tenth_is_in_test() -> None:
    train, test = ({tuple(key) for key in walk.keys(split).tolist()} for split in ("train", "test"))  # type: ignore[arg-type]
    assert not train & test
    assert 0.08 < len(test) / (len(train) + len(test)) < 0.12
    # Not even with another start.
    assert not {key[:4] for key in train} & {key[:4] for key in test}


def test_the_split_of_known_problems_never_changes() -> None:
    assert (len(walk.keys("train")), len(walk.keys("test"))) == (536538, 55811)
    assert walk.split_of(walk.Key(2, 1, 2, 20, 7)) == walk.split_of(walk.Key(2, 1, 2, 20, 8))


def test_shares_are_those_of_random_walks_counted_by_hand() -> None:
    # From 98 with +2, -1, *2: adding and doubling leave 0..99, so every walk goes to 97. Then +2 = 99 or -1 = 96, half each.
    key = walk.Key(2, 1, 2, 97, 98)
    assert walk.next_values(98, key) == [("-", 1, 97)]
    share = walk._shares(2, 1, 2)
    assert share[98, 97] == share[97, 97] == 1.0
    # 99 can only go to 98, that only to 97, that to 99 or 96: 99 is left for 97, and back there with one half.
    assert walk.next_values(97, key) == [("+", 2, 99), ("-", 1, 96)]
    assert share[99, 97] == 1.0


def test_every_problem_is_solved_by_a_share_of_random_walks_between_the_bounds() -> None:
    for problem in walk.make_problems("test", 200):
        add, subtract, multiply = (int(move[1:]) for move in problem["moves"])
        assert 0.05 <= walk._shares(add, subtract, multiply)[problem["start"], problem["target"]] <= 0.5


def test_gold_answers_of_both_splits_score_one() -> None:
    for split in ("train", "test"):
        problems = walk.make_problems(split, 2000)  # type: ignore[arg-type]
        texts = [walk.gold_answer(problem) for problem in problems]
        columns = {name: [problem[name] for problem in problems] for name in ("start", "target", "moves")}
        assert walk_reward(texts, **columns) == [1.0] * len(problems)


def test_a_gold_answer_is_a_shortest_walk() -> None:
    problem = {"start": 17, "target": 34, "moves": MOVES}
    assert walk.gold_answer(problem) == "17 * 2 = 34.\n\nDone."
    with pytest.raises(DataError, match="no walk of at most 8 moves solves 'From 0 reach 1 with"):
        walk.gold_answer({"start": 0, "target": 1, "moves": ["+12", "-8", "*2"]})  # all values are even


def test_same_seed_gives_the_same_problems_and_another_seed_gives_others() -> None:
    first = walk.make_problems("train", 50, seed=3)
    assert first == walk.make_problems("train", 50, seed=3)
    assert first != walk.make_problems("train", 50, seed=4)
    assert len({problem["id"] for problem in first}) == 50


def test_a_problem_shows_start_target_and_moves() -> None:
    problem = walk.problem(walk.Key(9, 4, 2, 64, 17))
    assert problem["question"] == "From 17 reach 64 with +9, -4 or *2.\n"
    assert problem["id"] == "walk-17-64-9-4-2"
    assert (problem["answer"], problem["moves"]) == ("64", MOVES)


def test_wrong_requests_say_what_is_there() -> None:
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        walk.make_problems("tests", 1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="asked for 55812 walk problems, split 'test' has 55811"):
        walk.make_problems("test", 55812)
    with pytest.raises(ConfigError, match="n must be >= 0, got -1"):
        walk.make_problems("test", -1)


# --- the verifier


def test_a_right_walk_scores_one_also_as_a_message_and_with_blanks_around_it() -> None:
    assert score(RIGHT) == 1.0
    assert score(f"  {RIGHT}\n") == 1.0
    message = [{"role": "assistant", "content": RIGHT}]
    assert walk_reward([message], start=[17], target=[39], moves=[MOVES]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Done.",  # no step
        RIGHT.replace("Done.", "Stuck."),
        RIGHT.replace("Done.", ""),
        RIGHT + "\n\nDone.",
        RIGHT.replace("Done.", "39 + 9 = 48.\n\nDone."),  # walked on
        RIGHT.replace("34 + 9 = 43", "35 + 9 = 44").replace("43 - 4 = 39", "43 - 4 = 39"),  # not from where it was
        RIGHT.replace("= 34", "= 35"),  # wrong arithmetic
        RIGHT.replace("34 + 9 = 43.\n\n43 - 4 = 39", "34 + 5 = 39"),  # no move of this problem
        "17 * 2 = 34.\n34 + 9 = 43.\n43 - 4 = 39.\n\nDone.",  # no blank lines
        "x" * 100_000,
        "17 * 2 = 34.\n\n" * 15_000,
        "\n\n" * 50_000 + "Done.",
        "17 * ٢ = 34.\n\nDone.",
        "\x00\ud800",
    ],
)
def test_wrong_walks_and_garbage_score_zero(text: str) -> None:
    assert score(text) == 0.0


def test_a_walk_may_not_leave_the_range_nor_take_more_than_its_moves() -> None:
    assert score("95 + 9 = 104.\n\n104 - 4 = 100.\n\nDone.", 95, 100) == 0.0
    assert score("2 - 4 = -2.\n\nDone.", 2, -2) == 0.0
    there_and_back = [f"{v} + 9 = {v + 9}.\n\n" for v in range(0, 72, 9)]
    assert score("".join(there_and_back) + "Done.", 0, 72) == 1.0  # eight moves
    assert score("".join(there_and_back) + "72 + 9 = 81.\n\nDone.", 0, 81) == 0.0


def test_values_are_read_up_to_the_first_wrong_step() -> None:
    assert read_walk(["17 * 2 = 34.", "34 + 9 = 43.", "43 + 9 = 51."], 17, MOVES) == [34, 43]
    assert read_walk(["18 * 2 = 36."], 17, MOVES) == []


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
        assert len(tokenizer.encode(question)) == 11
        assert len(tokenizer.encode(answer)) == 6 * answer.count("\n\n") + 1


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
        out = model.generate(**ids, max_new_tokens=64, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    texts = tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    rewards = walk_reward(texts, **{name: [p[name] for p in problems] for name in ("start", "target", "moves")})
    assert 0.15 < sum(r or 0 for r in rewards) / len(rewards) < 0.35
    steps = sum(len(text.split("\n\n")) for text in texts) / len(texts)
    assert 5 < steps < 9
