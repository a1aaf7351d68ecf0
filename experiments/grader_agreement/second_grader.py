r"""Grades stored answers with other people's graders; runs without ibtpo, in an environment of its own.

    pip install 'lm-eval[math,ifeval]==0.4.13' if-verifiable==0.1.2
    python second_grader.py --answers FOLDER --data FOLDER --out FOLDER

Every function that decides is theirs. Only which function is asked when is written here, because no task of lm-eval
reads all forms of answers.

math: lm-eval. The answer is what is in the last box, else what its Minerva task finds in "Final Answer: The final
    answer is …", else what stands between the first and the last dollar sign, as in its AIME task. It is right if the
    comparison of strings of its Hendrycks MATH task says so, or the comparison by sympy of its Minerva task.
gsm8k: as in math if there is a box, else lm-eval's task gsm8k_cot_zeroshot with its filter flexible-extract, which
    takes the last number.
choice: the letter in the last box, normalised as by the Minerva task; else the one that lm-eval's filter of MMLU-Pro
    finds; else the one that its filter for generated GPQA answers finds.
ifeval: if-verifiable. Its checkers descend from Google's code, as lm-eval's do: they are packaged by others, not
    written by others.
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langdetect import DetectorFactory
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import MultiChoiceRegexFilter, RegexFilter
from lm_eval.tasks.hendrycks_math import utils as hendrycks
from lm_eval.tasks.minerva_math import utils as minerva

Row = dict[str, Any]
FLEXIBLE = RegexFilter(regex_pattern="(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
MMLU_PRO = RegexFilter(regex_pattern=r"answer is \(?([ABCDEFGHIJ])\)?")
GPQA = MultiChoiceRegexFilter(regex_pattern=r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True)


def main() -> None:
    """Grades the stored answers of each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--answers", "--data", "--out"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    # lm-eval calls an answer wrong if grading it takes longer than 5 seconds. If that cuts an import short, every later
    # answer is called wrong, too. So on a busy machine the grades would depend on the machine; the limit is raised.
    limit = minerva.timeout
    minerva.timeout = lambda seconds: limit(12 * seconds)
    assert minerva.is_equiv("1.0", "1"), "sympy's LaTeX parser does not work here"
    DetectorFactory.seed = 0
    for name, (grade, file) in GRADERS.items():
        gold = {row["id"]: row for row in read(args.data / file, name)} if file else made_up(args.answers)
        found = []
        for answer in read(args.answers / f"{name}.answers.jsonl"):
            verdict = grade(answer["completion"], gold[answer["id"]])
            found.append({"id": answer["id"], "draw": answer["draw"], **verdict})
        (args.out / f"{name}.second.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        print(f"{name}: {len(found)} answers")


def read(path: Path, name: str = "") -> list[Row]:
    """The rows of a JSON Lines file. Those of IFEval's own file get the ids that ibtpo gives them."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [{"id": f"ifeval-{row['key']}", **row} for row in rows] if name == "ifeval" else rows


def made_up(answers: Path) -> dict[str, Row]:
    """The gold letters of the made-up GPQA rows by id. `grade.py` wrote them, since ibtpo's loader shuffles choices."""
    return {row["id"]: row for row in read(answers / "made_up_gpqa.gold.jsonl")}


def math(text: str, gold: Row) -> Row:
    """The grade of an answer to a mathematical problem, and what was read as its final answer."""
    boxed = minerva.last_boxed_only_string(text)
    stated = minerva.get_unnormalized_answer(text)
    answer = minerva.remove_boxed(boxed) if boxed is not None else stated
    if answer == "[invalidanswer]":
        dollars = [i for i, c in enumerate(text) if c == "$"]
        answer = text[dollars[0] + 1 : dollars[-1]] if len(dollars) > 1 else text
    right = hendrycks.is_equiv(answer, gold["answer"]) or minerva.is_equiv(
        minerva.normalize_final_answer(answer), minerva.normalize_final_answer(gold["answer"])
    )
    return {"grade": float(right), "read": answer[-200:]}


def gsm8k(text: str, gold: Row) -> Row:
    """The grade of an answer to a GSM8K problem, and what was read as its final answer."""
    if minerva.last_boxed_only_string(text) is not None:
        return math(text, gold)
    [[number]] = FLEXIBLE.apply([[text]], [{}])
    ignore = [",", r"\$", "(?s).*#### ", r"\.$"]
    same = exact_match_hf_evaluate([number], [gold["answer"]], regexes_to_ignore=ignore, ignore_case=True)
    return {"grade": float(same["exact_match"]), "read": number}


def choice(text: str, gold: Row) -> Row:
    """The grade of an answer to a multiple-choice problem, and the letter that was read."""
    boxed = minerva.last_boxed_only_string(text)
    if boxed is not None:
        letter = minerva.normalize_final_answer(minerva.remove_boxed(boxed))
    else:
        [[letter]] = MMLU_PRO.apply([[text]], [{}])
        if letter == "[invalid]":
            [[letter]] = GPQA.apply([[text]], [{"choices": list(gold["choices"].values())}])
    same = exact_match_hf_evaluate([letter], [gold["answer"]], ignore_case=True, ignore_punctuation=True)
    return {"grade": float(same["exact_match"]), "read": letter}


def ifeval(text: str, gold: Row) -> Row:
    """The grade of an answer to IFEval, prompt level and strict, and its other levels."""
    from if_verifiable.common import evaluate_instructions
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    _, scores = evaluate_instructions(
        text, gold["instruction_id_list"], gold["kwargs"], gold["prompt"], INSTRUCTION_DICT
    )
    levels = {
        "prompt_strict": scores.binary_strict,
        "prompt_loose": scores.binary_loose,
        "instruction_strict": scores.partial_strict,
        "instruction_loose": scores.partial_loose,
    }
    return {"grade": scores.binary_strict, **levels}


GRADERS: dict[str, tuple[Callable[[str, Row], Row], str | None]] = {
    "math500": (math, "math500.jsonl"),
    "aime2024": (math, "aime2024.jsonl"),
    "aime2025": (math, "aime2025.jsonl"),
    "amc2023": (math, "amc2023.jsonl"),
    "amc2024": (choice, "amc2024.jsonl"),
    "gsm8k": (gsm8k, "gsm8k_test.jsonl"),
    "gpqa_diamond": (choice, None),
    "ifeval": (ifeval, "ifeval_input_data.jsonl"),
    "dapo_heldout": (math, "dapo_math_17k.jsonl"),
}

if __name__ == "__main__":
    main()
