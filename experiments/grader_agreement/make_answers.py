r"""Makes answers to be graded twice: worked solutions, gold answers in many forms, wrong answers, and sampled text.

    python make_answers.py --data FOLDER --sampled FOLDER --out FOLDER

The files are those that `ibtpo eval` stores and `ibtpo regrade` reads, with two more fields. `expected` says whether an
answer is right, which is known if it was constructed, and null if it was sampled or follows instructions. `form` says
how the answer was made.
"""

import argparse
import csv
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ibtpo.tasks.benchmarks import BENCHMARKS, load_benchmark
from ibtpo.tasks.problems import Problem

SOURCES = {
    "math500": ("math500.jsonl", 250),
    "aime2024": ("aime2024.jsonl", 30),
    "aime2025": ("aime2025.jsonl", 30),
    "amc2023": ("amc2023.jsonl", 40),
    "amc2024": ("amc2024.jsonl", 22),
    "gsm8k": ("gsm8k_test.jsonl", 200),
    "gpqa_diamond": ("made_up_gpqa.csv", 40),
    "ifeval": ("ifeval_input_data.jsonl", 541),
    "dapo_heldout": ("dapo_math_17k.jsonl", 100),
}
THINKING = "Let me work through this.\n\nFirst I set up what is given; then I simplify.\n\n"

MATH_FORMS: dict[str, Callable[[str], str]] = {
    "box": lambda a: rf"{THINKING}So the answer is $\boxed{{{a}}}$.",
    "box, display": lambda a: f"{THINKING}Therefore\n\\[\n\\boxed{{ {a} }}\n\\]",
    "box, bold": lambda a: rf"{THINKING}**Final answer:** \(\boxed{{{a}}}\)",
    "box after another": lambda a: rf"One might think \boxed{{17}}, but that forgets a case. So \boxed{{{a}}}",
    "minerva": lambda a: f"{THINKING}Final Answer: The final answer is ${a}$. I hope it is correct.",
    "in words": lambda a: f"{THINKING}The answer is ${a}$.",
}
CHOICE_FORMS: dict[str, Callable[[str], str]] = {
    "box": lambda a: rf"{THINKING}So the answer is $\boxed{{{a}}}$.",
    "box, text": lambda a: rf"{THINKING}So \boxed{{\text{{{a}}}}}.",
    "box, bold in parentheses": lambda a: rf"{THINKING}$\boxed{{\textbf{{({a})}}}}$",
    "box in parentheses": lambda a: rf"{THINKING}\boxed{{({a})}}",
    "in words": lambda a: f"{THINKING}The answer is ({a}).",
    "in words, bare": lambda a: f"{THINKING}The correct answer is {a}.",
    "colon": lambda a: f"{THINKING}Answer: {a}",
    "bold line": lambda a: f"{THINKING}The answer is **({a})**",
}


def main() -> None:
    """Writes the answers of each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--sampled", type=Path, required=True, help="folder of BENCHMARK.answers.jsonl by ibtpo eval")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_made_up_gpqa(args.out / "made_up_gpqa.csv")
    for name, (file, limit) in SOURCES.items():
        folder = args.out if name == "gpqa_diamond" else args.data
        problems = load_benchmark(BENCHMARKS[name], folder / file, limit=limit, instruction="")
        rows: list[dict[str, Any]] = []
        count: dict[str, int] = {}
        sampled = args.sampled / f"{name}.answers.jsonl"
        made = list(constructed(name, problems))
        if sampled.is_file():
            texts = [json.loads(line) for line in sampled.read_text(encoding="utf-8").split("\n") if line]
            made += [(row["id"], "sampled", None, row["completion"]) for row in texts]
        for identity, form, expected, text in made:
            draw = count[identity] = count.get(identity, -1) + 1
            stored = {"id": identity, "draw": draw, "completion": text, "grade": None, "stop": "eos", "tokens": 0}
            rows.append({**stored, "form": form, "expected": expected})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.answers.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}: {len(rows)} answers, {sum(r['form'] == 'sampled' for r in rows)} of them sampled")


Made = tuple[str, str, bool | None, str]  # the problem's id, form, expected, the answer's text


def constructed(name: str, problems: list[Problem]) -> Iterator[Made]:
    """Yields constructed answers, drawn at random with a seed from the names of the benchmark and the problem."""
    for i, problem in enumerate(problems):
        rng = random.Random(f"{name}/{problem.id}")
        if name == "ifeval":
            yield from instructed(problem, rng)
        elif BENCHMARKS[name].verifier == "choice":
            yield from chosen(problem, rng)
        else:
            other = problems[(i + 1) % len(problems)]
            yield from solved(problem, other, rng, few=len(problems) >= 100)


def solved(problem: Problem, other: Problem, rng: random.Random, few: bool) -> Iterator[Made]:
    """Yields right and wrong answers to a problem with a mathematical answer.

    other: another problem, whose answer may serve as a wrong one.
    few: whether to make only a few, for a benchmark with many problems.
    """
    gold = re.sub(r".*####\s*", "", str(problem.answer), flags=re.DOTALL)
    if solution := problem.columns.get("solution"):
        yield problem.id, "worked solution", True, re.sub(r"<<.*?>>", "", solution)
    forms = list(MATH_FORMS)
    for form in rng.sample(forms, 2 if few else 5):
        yield problem.id, form, True, MATH_FORMS[form](gold)
    variants = list(respelled(gold))
    for label, text in rng.sample(variants, min(len(variants), 1 if few else 3)):
        yield problem.id, label, True, MATH_FORMS["box"](text)
    wrong_forms = rng.sample(forms, 3)
    wrong_texts = wrong_answers(gold, str(other.answer), rng)[:3]
    wrong = []
    for form, text in zip(wrong_forms[: len(wrong_texts)], wrong_texts, strict=True):  # there may be only one or two
        wrong.append((f"wrong, {form}", MATH_FORMS[form](text)))
    wrong.append(("right, then a wrong box", rf"The sum is {gold}, so \boxed{{{shifted(gold, rng)}}}"))
    wrong.append(("unfinished box", rf"{THINKING}So the answer is $\boxed{{"))
    for label, text in rng.sample(wrong, 1 if few else 3):
        yield problem.id, label, False, text


def respelled(gold: str) -> Iterator[tuple[str, str]]:
    r"""Yields other ways to write a gold answer, equal in value, each after a name for it."""
    if re.fullmatch(r"-?\d+", gold):
        yield "decimal point", f"{gold}.0"
        yield "x =", f"x = {gold}"
        yield "full stop within", f"{gold}."
        yield "text macro", rf"\text{{{gold}}}"
        if abs(int(gold)) >= 1000:
            yield "thousands", f"{int(gold):,}"
            yield "thousands in LaTeX", f"{int(gold):,}".replace(",", "{,}")
        if abs(int(gold)) > 1:
            yield "product", rf"{int(gold) * 3} / 3"
            yield "fraction", rf"\frac{{{int(gold) * 2}}}{{2}}"
    else:
        yield "spaces", gold.replace(",", ", ").replace("+", " + ")
    if (frac := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", gold)) is not None:
        yield "dfrac", gold.replace(r"\frac", r"\dfrac")
        yield "slash", f"{frac[1]}{frac[2]}/{frac[3]}"
        yield "twice over", rf"{frac[1]}\frac{{{2 * int(frac[2])}}}{{{2 * int(frac[3])}}}"
    if gold.startswith("(") and r"\left" not in gold:
        yield "left and right", rf"\left{gold[:-1]}\right{gold[-1]}"
    if r"\left" in gold:
        yield "no left and right", gold.replace(r"\left", "").replace(r"\right", "")
    if r"\text" in gold:
        yield "no text macro", re.sub(r"\\text\{([^{}]*)\}", r"\1", gold)


def shifted(gold: str, rng: random.Random) -> str:
    """An answer of another value: one number in it is raised, or if it has none, 1 is added or it becomes 7."""
    numbers = list(re.finditer(r"\d+", gold))
    if not numbers:
        return f"{gold} + 1" if "text" not in gold and not gold.isalpha() else "7"
    place = rng.choice(numbers)
    return f"{gold[: place.start()]}{int(place[0]) + rng.choice([1, 2, 10])}{gold[place.end() :]}"


def wrong_answers(gold: str, other: str, rng: random.Random) -> list[str]:
    """Wrong answers near the gold one, and the answer `other` of another problem if it differs."""
    found = [shifted(gold, rng)]
    if re.fullmatch(r"\d+", gold) and int(gold):
        found += [f"-{gold}", f"{gold}0"]
    if other != gold and "####" not in other:
        found.append(other)
    return found


def chosen(problem: Problem, rng: random.Random) -> Iterator[Made]:
    """Yields right and wrong answers to a multiple-choice problem."""
    choices = problem.columns["choices"]
    gold = str(problem.answer)
    for form in rng.sample(list(CHOICE_FORMS), 6):
        yield problem.id, form, True, CHOICE_FORMS[form](gold)
    yield problem.id, "box with its text", True, rf"{THINKING}\boxed{{\textbf{{({gold})}}\ {choices[gold]}}}"
    others = [letter for letter in choices if letter != gold]
    for form in rng.sample(list(CHOICE_FORMS), 5):
        yield problem.id, f"wrong, {form}", False, CHOICE_FORMS[form](rng.choice(others))
    yield problem.id, "right, then a wrong box", False, rf"({gold}) looks good, but no: \boxed{{{others[0]}}}"
    yield problem.id, "two letters", False, rf"{THINKING}\boxed{{{gold} \text{{ or }} {others[0]}}}"


def instructed(problem: Problem, rng: random.Random) -> Iterator[Made]:
    """Yields one text that tries to follow the instructions, spoilt in one of several ways or not at all.

    Whether it follows them is not known.
    """
    parts = ["This is a short answer about the topic", "It has a few sentences and says little more than that"]
    text = ". ".join(parts) + ".\n\nHere is a second paragraph, with a comma and a *highlighted* word."
    for name, given in zip(problem.columns["instruction_id_list"], problem.columns["kwargs"], strict=True):
        text = follow(text, name, given)
    spoil = rng.choice(["as it is", "as it is", "first line added", "asterisks added", "cut", "empty", "thinking"])
    spoilt = {
        "first line added": f"Sure, here is my answer:\n{text}",
        "asterisks added": f"**{text}**",
        "cut": text[: len(text) // 2],
        "empty": " \n",
        "thinking": f"<think>\nI should follow the instructions.\n</think>\n\n{text}",
    }
    yield problem.id, f"instructions, {spoil}", None, spoilt.get(spoil, text)


def follow(text: str, name: str, given: dict[str, Any]) -> str:
    """The text, changed so as to follow one instruction; it stays as it is for an instruction not listed here.

    name: the instruction's id in IFEval.
    given: the instruction's arguments.
    """
    if name == "punctuation:no_comma":
        return text.replace(",", "")
    if name == "change_case:english_lowercase":
        return text.lower()
    if name == "change_case:english_capital":
        return text.upper()
    if name == "startend:quotation":
        return f'"{text}"'
    if name == "startend:end_checker":
        return f"{text}\n{given['end_phrase']}"
    if name == "detectable_format:title":
        return f"<<A title>>\n{text}"
    if name == "detectable_format:json_format":
        return json.dumps({"answer": text})
    if name == "detectable_format:number_bullet_lists":
        return text + "".join(f"\n* point {i}" for i in range(given["num_bullets"]))
    if name == "detectable_format:number_highlighted_sections":
        return text + "".join(f"\n*section {i}*" for i in range(given["num_highlights"]))
    if name == "detectable_format:constrained_response":
        return "My answer is yes."
    if name == "detectable_content:postscript":
        return f"{text}\n\n{given['postscript_marker']} more to say."
    if name == "detectable_content:number_placeholders":
        return text + "".join(f" [name {i}]" for i in range(given["num_placeholders"]))
    if name == "keywords:existence":
        return f"{text} {' '.join(given['keywords'])}."
    if name == "keywords:frequency":
        return f"{text} {' '.join([given['keyword']] * given['frequency'])}."
    if name == "length_constraints:number_words" and given["relation"] == "at least":
        return text + " word" * given["num_words"] + "."
    if name == "length_constraints:number_sentences":
        return text + " One more sentence." * given["num_sentences"]
    if name == "length_constraints:number_paragraphs":
        return "\n***\n".join([text] * given["num_paragraphs"])
    if name == "combination:repeat_prompt":
        return f"{given['prompt_to_repeat']}\n{text}"
    if name == "combination:two_responses":
        return f"{text}\n******\nAnother answer."
    return text


def write_made_up_gpqa(path: Path) -> None:
    """Writes made-up questions about sums in GPQA's format, because its own questions must not be published."""
    columns = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3))]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i in range(40):
            total = 17 * i + 5
            sums = [f"{total + d} mol" for d in (0, 1, 10, 100)]
            writer.writerow([f"made-up-{i:02}", f"How many mol are {17 * i} mol and 5 mol?", *sums])


if __name__ == "__main__":
    main()
