"""avg@k, pass@k and their intervals, against values computed by hand and by enumeration."""

import asyncio
import itertools
import math

import numpy as np
import pytest

from ibtpo.engines import Completion, Sampling
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import ConfigError, DataError
from ibtpo.evaluation.evaluate import Answer, evaluate, summarise_answers
from ibtpo.evaluation.statistics import avg_at_k, bootstrap_interval, pass_at_k
from ibtpo.search import Prompt
from ibtpo.verify import Verdict

A, B, EOS = 1, 2, 3


def test_pass_at_k_of_hand_computed_cases() -> None:
    n, c = np.array([4, 4, 4, 4]), np.array([0, 1, 2, 4])
    assert pass_at_k(n, c, 1) == pytest.approx([0, 1 / 4, 2 / 4, 1])
    # 1 - C(3,2)/C(4,2) = 1/2; 1 - C(2,2)/C(4,2) = 5/6.
    assert pass_at_k(n, c, 2) == pytest.approx([0, 1 / 2, 5 / 6, 1])
    assert pass_at_k(n, c, 4) == pytest.approx([0, 1, 1, 1])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_pass_at_k_equals_the_share_of_k_subsets_that_hold_a_right_answer(k: int) -> None:
    for c in range(7):
        answers = [i < c for i in range(6)]
        subsets = list(itertools.combinations(answers, k))
        expected = sum(any(s) for s in subsets) / len(subsets)
        assert pass_at_k(np.array([6]), np.array([c]), k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_with_fewer_answers_than_k_takes_those_there_are() -> None:
    assert pass_at_k(np.array([2, 2]), np.array([0, 1]), 8).tolist() == [0.0, 1.0]


def test_pass_at_k_of_no_answers_is_undefined() -> None:
    assert math.isnan(pass_at_k(np.array([0]), np.array([0]), 4)[0])


def test_pass_at_k_stays_exact_for_many_draws() -> None:
    # 1 - C(999,500)/C(1000,500) = 1/2, where factorials would overflow.
    assert pass_at_k(np.array([1000]), np.array([1]), 500)[0] == pytest.approx(0.5, abs=1e-12)


def test_avg_at_k_leaves_unknown_grades_out() -> None:
    grades = np.array([[1.0, 0.0, np.nan], [np.nan, np.nan, np.nan], [1.0, 1.0, 0.0]])
    assert avg_at_k(grades)[[0, 2]] == pytest.approx([1 / 2, 2 / 3])
    assert math.isnan(avg_at_k(grades)[1])


def test_the_interval_of_constant_data_is_a_point() -> None:
    assert bootstrap_interval(np.full(50, 0.25)) == (0.25, 0.25)


def test_the_interval_of_nothing_is_undefined() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([np.nan])))


def test_the_interval_depends_on_its_seed_alone_and_leaves_unknown_problems_out() -> None:
    values = np.random.default_rng(1).random(40)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert bootstrap_interval(np.append(values, np.nan), seed=3) == bootstrap_interval(values, seed=3)


def test_the_interval_is_the_normal_one_where_the_normal_one_is_right() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(1000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_about_95_percent_of_the_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(300):
        low, high = bootstrap_interval((rng.random(100) < 0.3).astype(float), seed=i, resamples=500)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def answers(*grades: float | None) -> list[Answer]:
    return [Answer("p", i, "", g, "length" if i == 0 else "eos", 10) for i, g in enumerate(grades)]


def test_the_summary_of_hand_made_answers() -> None:
    result = summarise_answers([answers(1, 0, 0, 0), answers(1, 1, None, 0), answers(None, None, None, None)], 4)
    record = result.to_json()
    assert record["avg"] == pytest.approx((1 / 4 + 2 / 3) / 2)
    assert record["pass"] == 1.0
    assert record["pass_at"] == pytest.approx({"1": (1 / 4 + 2 / 3) / 2, "2": (1 / 2 + 1) / 2, "4": 1.0})
    assert (record["k"], record["n"], record["ungraded"], record["verifier_errors"]) == (4, 2, 1, 5)
    assert record["truncated"] == pytest.approx(3 / 12)
    assert record["tokens"] == 120
    assert record["pass_ci"] == [1.0, 1.0]
    assert record["avg_ci"][0] <= record["avg"] <= record["avg_ci"][1]


def test_a_partly_right_answer_counts_in_the_average_and_not_in_pass() -> None:
    record = summarise_answers([answers(0.5, 0.75)], 2).to_json()
    assert (record["avg"], record["pass"]) == (0.625, 0.0)


def test_nothing_graded_gives_null_not_zero() -> None:
    record = summarise_answers([answers(None, None)], 2).to_json()
    assert [record[key] for key in ("avg", "pass", "avg_ci", "pass_ci", "n", "ungraded")] == [None] * 4 + [0, 1]


class LetterVerifier:
    """Right when the answer holds as many `a` as the row's `answer` says; fails on rows that say "crash"."""

    names = ("letters",)

    def score(self, rows):
        return [self._judge(r) for r in rows]

    def _judge(self, row):
        if row["answer"] == "crash":
            return Verdict(None, (None,), "crashed")
        right = float(row["completion"].count("a") == int(row["answer"]))
        return Verdict(right, (right,))

    async def ascore(self, rows):
        return self.score(rows)

    def close(self) -> None: ...


def script(ids):
    return {A: 0.5, B: 0.25, EOS: 0.25}


def decode(ids):
    return "".join({A: "a", B: "b"}.get(i, "") for i in ids)


def run(prompts, **options):
    engine = ScriptedEngine(script, [EOS], delay=options.pop("delay", None))
    arguments = {"decode": decode, "k": 4, "max_completion_length": 6, **options}
    return asyncio.run(evaluate(engine, LetterVerifier(), prompts, **arguments))


def prompts(*expected: str) -> list[Prompt]:
    return [Prompt(f"p{i}", (7, i), "q", {"answer": e}) for i, e in enumerate(expected)]


def test_evaluation_grades_every_draw_and_keeps_input_order() -> None:
    seen: list[str] = []
    result = run(prompts("1", "0", "crash"), on_answers=lambda found: seen.append(found[0].id))
    assert [(a.id, a.draw) for a in result.answers] == [(f"p{i}", j) for i in range(3) for j in range(4)]
    for a in result.answers[:8]:
        assert a.grade == float(a.completion.count("a") == int("10"[int(a.id[1])]))
    assert sorted(seen) == ["p0", "p1", "p2"]
    assert (result.n, result.ungraded, result.verifier_errors) == (2, 1, 4)
    assert result.avg == pytest.approx(np.mean([a.grade for a in result.answers[:8]]))
    assert result.tokens == sum(a.tokens for a in result.answers)


def test_answers_do_not_depend_on_the_other_problems_or_on_the_order_of_arrival() -> None:
    alone = run(prompts("1", "2")[1:])
    both = run(prompts("1", "2"), delay=lambda seed: (seed % 5) / 500, max_in_flight=2)
    assert [a.completion for a in alone.answers] == [a.completion for a in both.answers[4:]]
    other = run(prompts("1", "2"), seed=1)
    assert [a.completion for a in other.answers] != [a.completion for a in both.answers]


def test_draws_of_a_larger_k_start_with_those_of_a_smaller_one() -> None:
    few, many = run(prompts("1")), run(prompts("1"), k=8)
    assert [a.completion for a in many.answers[:4]] == [a.completion for a in few.answers]


def test_a_draw_cut_at_the_limit_counts_as_truncated() -> None:
    result = run(prompts("1"), k=16, max_completion_length=2)
    cut = [a for a in result.answers if a.stop == "length"]
    assert cut
    assert all(a.tokens == 2 for a in cut)
    assert result.truncated == len(cut) / 16


def test_the_engine_gets_the_sampling_that_was_asked_for() -> None:
    class Spy:
        async def generate(self, ids, sampling, seed, room):
            assert sampling == Sampling(0.5, 0.9, 7)
            return Completion([EOS], [-0.5], None, "eos")

    result = asyncio.run(
        evaluate(Spy(), LetterVerifier(), prompts("0"), decode=decode, k=2, sampling=Sampling(0.5, 0.9, 7))
    )
    assert result.avg == 1.0


def test_an_impossible_evaluation_is_refused() -> None:
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        run(prompts("1"), k=0)
    with pytest.raises(DataError, match="0 problems"):
        run([])
