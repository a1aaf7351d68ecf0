"""Grades the stored answers with ibtpo: by `ibtpo regrade`, and for IFEval at all its levels.

python grade.py --answers FOLDER --data FOLDER --out FOLDER
"""

import argparse
import json
from pathlib import Path

from make_answers import SOURCES

from ibtpo import cli
from ibtpo.evaluation.stored_answers import read_answers
from ibtpo.tasks.benchmarks import BENCHMARKS, load_benchmark
from ibtpo.verify.ifeval import LEVELS, check
from ibtpo.verify.tags import final_text


def main() -> None:
    """Grades the answers of each benchmark, and writes the gold answers they were graded by."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--answers", "--data", "--out"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, (file, _) in SOURCES.items():
        data = (args.answers if name == "gpqa_diamond" else args.data) / file
        words = [args.answers / f"{name}.answers.jsonl", "--benchmark", name, "--data", data]
        code = cli.main(["regrade", *map(str, words), "--output", str(args.out / f"{name}.json"), "--overwrite"])
        assert code == 0, f"regrade of {name} failed"
        problems = {p.id: p for p in load_benchmark(BENCHMARKS[name], data)}
        gold = [{"id": p.id, "answer": p.answer, "choices": p.columns.get("choices")} for p in problems.values()]
        write(args.out / f"{name}.gold.jsonl", gold)
        if name == "gpqa_diamond":
            write(args.answers / "made_up_gpqa.gold.jsonl", gold)
        if name == "ifeval":
            graded = args.out / f"{name}.answers.jsonl"
            rows = []
            for answer in read_answers(graded):
                columns = problems[answer.id].columns
                names, given = json.dumps(columns["instruction_id_list"]), json.dumps(columns["kwargs"])
                levels = check(final_text(answer.completion, answer_tags=""), names, given)
                assert levels["prompt_strict"] == answer.grade, "the verifier and its function differ"
                rows.append(
                    {"id": answer.id, "draw": answer.draw, "grade": answer.grade, **{k: levels[k] for k in LEVELS}}
                )
            write(graded, rows)


def write(path: Path, rows: list[dict]) -> None:
    """Writes rows as a JSON Lines file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
