r"""Pairs of answers that are equal or unequal by construction, graded by ibtpo, by math-verify alone and by lm-eval.

    python pairs.py --out FOLDER [--each 40]    with 'lm-eval[math]==0.4.13', whose Minerva task wants antlr 4.11

Writes pairs.json (counts, and every pair that a grader gets wrong) and pairs.md (the table of docs/verifiers.md). A
false positive is an unequal pair called equal, a false negative an equal pair called unequal.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

Pair = tuple[str, str, bool]  # the gold answer, the other answer, whether they are equal
Grader = Callable[[str, str], bool]


def integers(rng: random.Random) -> tuple[str, str, str]:
    """A gold answer, one that is equal and one that is not; so do all functions of `KINDS`."""
    n = rng.randint(2, 10**6)
    same = rng.choice(
        [f"{n}.0", f"{n:,}", f"{n:,}".replace(",", "{,}"), rf"\frac{{{2 * n}}}{{2}}", rf"\text{{{n}}}", f"x = {n}"]
    )
    return str(n), same, rng.choice([str(n + 1), f"-{n}", f"{n}0", rf"\frac{{{n}}}{{2}}"])


def rationals(rng: random.Random) -> tuple[str, str, str]:
    value = Fraction(rng.randint(1, 60), rng.randint(2, 60))
    p, q = value.numerator, value.denominator
    k = rng.randint(2, 5)
    same = rng.choice(
        [
            rf"\dfrac{{{p}}}{{{q}}}",
            f"{p}/{q}",
            rf"\frac{{{k * p}}}{{{k * q}}}",
            rf"{{{p} \over {q}}}",
            rf"\frac{{{p}.0}}{{{q}}}",
        ]
    )
    return rf"\frac{{{p}}}{{{q}}}", same, rng.choice([f"{p}/{q + 1}", f"-{p}/{q}", f"{p}:{q}", f"{p + q}/{q}"])


def decimals(rng: random.Random) -> tuple[str, str, str]:
    places = rng.randint(1, 4)
    n = rng.randint(1, 10**places * 9)
    while n % 10 == 0:
        n += 1
    text = f"{n // 10**places}.{n % 10**places:0{places}}"
    same = rng.choice(
        [text + "0", str(Fraction(n, 10**places)), rf"\frac{{{n}}}{{{10**places}}}", text.removeprefix("0")]
    )
    return text, same, rng.choice([f"{text}1", str(Fraction(n + 1, 10**places)), f"-{text}", text.replace(".", "")])


def scientific(rng: random.Random) -> tuple[str, str, str]:
    digits, power = rng.randint(11, 99), rng.choice([-19, -12, -8, -7, 5, 8, 11, 23])
    if digits % 10 == 0:
        digits += 1
    text = f"{digits // 10}.{digits % 10}"
    forms = [rf"{text}\times 10^{{{power}}}", f"{text}e{power}", rf"{text} \cdot 10^{{{power}}}", f"{text}E{power:+03}"]
    gold, same = rng.sample(forms, 2)
    other = rng.choice([power + 1, power - 1, -power])
    return gold, same, rng.choice([rf"{text}\times 10^{{{other}}}", f"{text}e{other}", "0" if power < 0 else text])


def mixed(rng: random.Random) -> tuple[str, str, str]:
    whole, q = rng.randint(1, 12), rng.choice([2, 3, 4, 5, 8])
    p = rng.choice([n for n in range(1, q) if Fraction(n, q).denominator == q])
    forms = [rf"{whole}\frac{{{p}}}{{{q}}}", f"{whole} {p}/{q}", f"{whole * q + p}/{q}", rf"{whole}\tfrac{p}{q}"]
    gold, same = rng.sample(forms, 2)
    return gold, same, rng.choice([f"{whole * p}/{q}", str(whole), f"{whole + 1} {p}/{q}", f"{p}/{q}"])


def surds(rng: random.Random) -> tuple[str, str, str]:
    a, b, k = rng.randint(1, 9), rng.choice([2, 3, 5, 6, 7]), rng.randint(2, 5)
    gold = rf"{a}+{k}\sqrt{{{b}}}"
    same = rng.choice(
        [rf"{a}+\sqrt{{{k * k * b}}}", rf"{k}\sqrt{b}+{a}", f"{a} + {k}√{b}", rf"{a}+\sqrt{{{b}}}\cdot {k}"]
    )
    return (
        gold,
        same,
        rng.choice([rf"{a}-{k}\sqrt{{{b}}}", rf"{a}+{b}\sqrt{{{k}}}" if b != k else "0", rf"{a + k}\sqrt{{{b}}}"]),
    )


def intervals(rng: random.Random) -> tuple[str, str, str]:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 6)
    left, right = rng.choice("[("), rng.choice(")]")
    sign = {"[": r"\le", "(": "<", "]": r"\le", ")": "<"}
    gold = f"{left}{a},{b}{right}"
    same = rng.choice(
        [f"{left}{a}, {b}{right}", rf"{a} {sign[left]} x {sign[right]} {b}", rf"\left{left}{a},{2 * b}/2\right{right}"]
    )
    other = {"[": "(", "(": "["}[left]
    return gold, same, rng.choice([f"{other}{a},{b}{right}", f"{left}{a},{b + 1}{right}", f"{left}{b},{a}{right}"])


def unions(rng: random.Random) -> tuple[str, str, str]:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 6)
    gold = rf"(-\infty,{a})\cup[{b},\infty)"
    same = rng.choice(
        [rf"[{b},\infty)\cup(-\infty,{a})", rf"x<{a} \text{{ or }} x \ge {b}", rf"x \geq {b} \text{{ or }} {a} > x"]
    )
    return (
        gold,
        same,
        rng.choice([rf"(-\infty,{a}]\cup[{b},\infty)", rf"x<{a}", f"({a},{b})", rf"x<{a} \text{{ or }} x>{b}"]),
    )


def sets(rng: random.Random) -> tuple[str, str, str]:
    numbers = rng.sample(range(-9, 20), 3)
    shuffled = rng.sample(numbers, 3)
    gold = r"\{" + ",".join(map(str, numbers)) + r"\}"
    same = r"\{" + ", ".join(map(str, shuffled)) + r"\}"
    wrong = rng.choice([numbers[:2], [*numbers[:2], numbers[2] + 30], [*numbers, 25]])
    return gold, same, r"\{" + ",".join(map(str, wrong)) + r"\}"


def lists(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.sample(range(1, 40), 2)
    same = rng.choice([f"{b}, {a}, {a}", f"{a}, {b}, {a}", rf"{a}, {a} \text{{ and }} {b}"])
    return f"{a},{a},{b}", same, rng.choice([f"{a},{b}", f"{a},{b},{b}", f"{a},{a},{b + 1}", f"{a}{a}{b}"])


def tuples(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.sample(range(1, 30), 2)
    q = rng.choice([2, 4, 5])
    gold = rf"({a},\frac{{{b}}}{{{q}}})"
    same = rng.choice([rf"\left({a}, {b}/{q}\right)", f"({a}, {b / q:g})", rf"(x,y)=({a},\frac{{{b}}}{q})"])
    return (
        gold,
        same,
        rng.choice(
            [rf"(\frac{{{b}}}{{{q}}},{a})" if Fraction(b, q) != a else "(0,0)", f"({a},{b})", f"({a + 1},{b}/{q})"]
        ),
    )


def percentages(rng: random.Random) -> tuple[str, str, str]:
    n = Fraction(rng.randint(5, 995), 10)
    text = f"{float(n):g}"
    gold = rf"{text}\%"
    same = rng.choice([text, f"{text}%", f"{text} percent", rf"{text}\text{{ percent}}", f"{float(n / 100):g}"])
    return (
        gold,
        same,
        rng.choice([rf"{float(n + 1):g}\%", f"{float(n * 10):g}", f"{float(n / 10):g}", rf"{float(n / 100):g}\%"]),
    )


def units(rng: random.Random) -> tuple[str, str, str]:
    n = rng.randint(2, 99)
    forms = {
        "km/h": [
            rf"{n}\text{{ km/h}}",
            rf"{n} \mathrm{{~km}} / \mathrm{{h}}",
            f"{n} km/h",
            f"{n} kilometers per hour",
            str(n),
        ],
        "m": [rf"{n}\text{{ m}}", rf"{n}\,\mathrm{{m}}", f"{n} meters", str(n)],
        "m/s^2": [rf"{n}\,\mathrm{{m}}/\mathrm{{s}}^2", f"{n} m/s^2", f"{n} m/s²", str(n)],
        "dollar": [rf"\${n}", f"{n} dollars", f"{n} USD", rf"{n} \text{{ dollars}}", f"{n}.00"],
        "min": [f"{n} minutes", rf"{n}\text{{ min}}", str(n)],
    }
    unit = rng.choice(list(forms))
    gold, same = rng.sample(forms[unit], 2)
    if converted := {"m": f"{n * 100} cm", "min": f"{n * 60} seconds"}.get(unit):
        # Another unit is equal only to a number with a unit.
        gold, same = rng.choice([(gold, same), (forms[unit][0], converted), (converted, forms[unit][1])])
    wrong = {"km/h": f"{n} m/s", "m": f"{n} km", "m/s^2": f"{n + 1} m/s^2", "dollar": f"{n} cents", "min": f"{n} hours"}
    if not any(char.isalpha() for char in gold) or gold == converted:
        return gold, same, str(n + 1)
    return gold, same, rng.choice([str(n + 1), wrong[unit]])


def ratios(rng: random.Random) -> tuple[str, str, str]:
    a, b, c = (rng.randint(1, 12) for _ in range(3))
    gold, same = rng.choice(
        [(f"{a}:{b}", f"{a} : {b}"), (f"{a}:{b}:{c}", f"{a}: {b}: {c}"), (f"{a}:{b}", rf"{a}\colon {b}")]
    )
    return gold, same, rng.choice([f"{a}/{b}", f"{a / b:g}", f"{a + 1}:{b}", f"{a * b}:{b * b + 1}"])


def letters(rng: random.Random) -> tuple[str, str, str]:
    a, b, k = *rng.sample("abxyz", 2), rng.randint(2, 6)
    return rng.choice(
        [
            (rf"\sqrt{{{a}{b}}}", rf"\sqrt{{{a}}}\sqrt{{{b}}}", rf"\sqrt{{{a}+{b}}}"),
            (rf"{k}\sqrt{{{a}}}", rf"\sqrt{{{k * k}{a}}}", rf"\sqrt{{{k}{a}}}"),
            (rf"\frac{{\sqrt{{{a}}}}}{{{a}}}", rf"\frac{{1}}{{\sqrt{{{a}}}}}", rf"\frac{{1}}{{{a}}}"),
            (f"({a}+{k})({a}-{k})", f"{a}^2-{k * k}", f"{a}^2+{k * k}"),
            (f"{k}({a}+{b})", f"{k}{a}+{k}{b}", f"{k}{a}+{b}"),
        ]
    )


def signs(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(1, 9), rng.choice([2, 3, 5, 7])
    gold = rng.choice([rf"{a}\pm\sqrt{{{b}}}", rf"x={a}\pm\sqrt{{{b}}}"])
    same = rng.choice(
        [rf"{a}+\sqrt{{{b}}}, {a}-\sqrt{{{b}}}", f"{a} ± √{b}", rf"{a}-\sqrt{b} \text{{ or }} {a}+\sqrt{b}"]
    )
    return (
        gold,
        same,
        rng.choice([rf"{a}+\sqrt{{{b}}}", rf"{a + 1}\pm\sqrt{{{b}}}", rf"{b}\pm\sqrt{{{a}}}" if a != b else "0"]),
    )


def constants(rng: random.Random) -> tuple[str, str, str]:
    n, k = rng.randint(2, 9), rng.randint(2, 9)
    return rng.choice(
        [
            (rf"{n}\mathrm{{e}}", f"{n}e", f"{n}"),
            (rf"\mathrm{{e}}^{{{n}}}+{k}", f"e^{n}+{k}", f"e^{n}-{k}"),
            (f"{n}+{k}i", rf"{n}+{k}\mathrm{{i}}", f"{n}-{k}i"),
            (rf"{n}\pi", f"{n}π", f"{n}"),
            (rf"\frac{{\pi}}{{{n}}}", f"π/{n}", rf"\frac{{{n}}}{{\pi}}"),
        ]
    )


def tiny(rng: random.Random) -> tuple[str, str, str]:
    n = rng.randint(7, 40)
    return rng.choice(
        [
            (f"10^{{-{n}}}", rf"\frac{{1}}{{10^{{{n}}}}}", f"10^{{-{n + 1}}}"),
            (f"2^{{-{3 * n}}}", rf"\frac{{1}}{{2^{{{3 * n}}}}}", "0"),
            (rf"\sqrt{{2}}\cdot 10^{{-{n}}}", rf"\frac{{\sqrt{{2}}}}{{10^{{{n}}}}}", rf"\sqrt{{3}}\cdot 10^{{-{n}}}"),
            (f"3^{{{n}}}", rf"3\cdot 3^{{{n - 1}}}", f"3^{{{n}}}+1"),
        ]
    )


KINDS: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    f.__name__: f
    for f in (
        integers, rationals, decimals, scientific, mixed, surds, constants, tiny, percentages, units, ratios, intervals,
        unions, sets, lists, tuples, signs, letters,
    )
}  # fmt: skip


def pairs(kind: str, each: int, seed: int = 0) -> Iterator[Pair]:
    """Yields `each` equal and `each` unequal pairs of a kind."""
    rng = random.Random(f"{kind}/{seed}")
    for _ in range(each):
        gold, same, other = KINDS[kind](rng)
        yield gold, same, True
        yield gold, other, False


def ours(gold: str, answer: str) -> bool:
    """ibtpo's grade of a box with the answer."""
    from ibtpo.verify.math import math_reward

    return math_reward([rf"The answer is $\boxed{{{answer}}}$."], [gold]) == [1.0]


def math_verify_alone(gold: str, answer: str) -> bool:
    """math-verify's grade of the same, as its documentation uses it."""
    from math_verify import parse, verify

    boxed = rf"The answer is $\boxed{{{answer}}}$."
    return bool(
        verify(parse(f"${gold}$", parsing_timeout=None), parse(boxed, parsing_timeout=None), timeout_seconds=None)
    )


def hendrycks(gold: str, answer: str) -> bool:
    """The grade of lm-eval's Hendrycks MATH task: a comparison of normalised strings."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return bool(is_equiv(answer, gold))


def minerva(gold: str, answer: str) -> bool:
    """The grade of lm-eval's Minerva MATH task: a comparison by sympy after its normalisation."""
    from lm_eval.tasks.minerva_math.utils import is_equiv, normalize_final_answer

    return bool(is_equiv(normalize_final_answer(answer), normalize_final_answer(gold)))


GRADERS: dict[str, Grader] = {
    "ibtpo": ours, "math-verify": math_verify_alone, "lm-eval hendrycks": hendrycks, "lm-eval minerva": minerva,
}  # fmt: skip


def main() -> None:
    """Grades all pairs with all graders, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=40, help="equal and unequal pairs of each kind")
    args = parser.parse_args()
    made = {kind: list(dict.fromkeys(pairs(kind, args.each))) for kind in KINDS}
    counts: dict[str, dict[str, int]] = {}
    wrong: dict[str, list[Pair]] = {name: [] for name in GRADERS}
    for kind, rows in made.items():
        counts[kind] = {"equal": sum(equal for *_, equal in rows), "unequal": sum(not equal for *_, equal in rows)}
        for name, grader in GRADERS.items():
            mistakes = [row for row in rows if grader(row[0], row[1]) != row[2]]
            wrong[name] += mistakes
            counts[kind][f"{name} false positives"] = sum(not equal for *_, equal in mistakes)
            counts[kind][f"{name} false negatives"] = sum(equal for *_, equal in mistakes)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"each": args.each, "kinds": counts, "wrong": wrong}
    (args.out / "pairs.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (args.out / "pairs.md").write_text(table(counts), encoding="utf-8")
    print(table(counts))


def table(counts: dict[str, dict[str, int]]) -> str:
    """The table of pairs.md: false positives and false negatives of each grader, a kind a row."""
    lines = [f"| kind | equal | unequal | {' | '.join(GRADERS)} |", "| --- | ---: | ---: |" + " ---: |" * len(GRADERS)]
    total = {key: sum(row[key] for row in counts.values()) for key in next(iter(counts.values()))}
    for kind, row in [*counts.items(), ("all", total)]:
        cells = [f"{row[f'{name} false positives']} / {row[f'{name} false negatives']}" for name in GRADERS]
        lines.append(f"| {kind} | {row['equal']} | {row['unequal']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
