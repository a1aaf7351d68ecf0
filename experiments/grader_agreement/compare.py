"""Lists where two graders disagree, and which of them is right where the answer was constructed right or wrong.

    python compare.py --answers FOLDER --ours FOLDER --second FOLDER --out FOLDER

Writes summary.json, table.md and disagreements.jsonl. A row holds ids, the gold answer and the end of the candidate
answer, never a question.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ibtpo.verify.ifeval import LEVELS

TAIL = 160  # characters of an answer that a row shows
TAIL_MAA = 40  # fewer of sampled answers to the MAA's problems: they may repeat a question, which is not ours to spread

Row = dict[str, Any]


def main() -> None:
    """Compares the grades of all benchmarks, and writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--answers", "--ours", "--second", "--out"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args()
    summary: dict[str, Row] = {}
    rows: list[Row] = []
    for path in sorted(args.second.glob("*.second.jsonl")):
        name = path.name.removesuffix(".second.jsonl")
        answers = keyed(args.answers / f"{name}.answers.jsonl")
        ours, second = keyed(args.ours / f"{name}.answers.jsonl"), keyed(path)
        gold = {row["id"]: row["answer"] for row in read(args.ours / f"{name}.gold.jsonl")}
        differing = []
        for key, answer in answers.items():
            mine, theirs = ours[key], second[key]
            values = [level for level in LEVELS if abs(mine[level] - theirs[level]) > 1e-9] if name == "ifeval" else []
            if values or mine["grade"] != theirs["grade"]:
                row = {"benchmark": name, "id": key[0], "draw": key[1], "form": answer["form"]}
                tail = TAIL_MAA if answer["form"] == "sampled" and name.startswith(("aime", "amc")) else TAIL
                row |= {"gold": gold[key[0]], "answer": answer["completion"][-tail:], "expected": answer["expected"]}
                row |= {"ours": mine["grade"], "second": theirs["grade"]}
                if name == "ifeval":
                    row["levels"] = {level: [mine[level], theirs[level]] for level in values}
                else:
                    row["second_read"] = theirs["read"][-tail:]
                differing.append(row)
        known = [answers[key]["expected"] for key in answers]
        summary[name] = {
            "answers": len(answers),
            "sampled": sum(a["form"] == "sampled" for a in answers.values()),
            "graded right by ours": sum(o["grade"] == 1.0 for o in ours.values()),
            "agree": len(answers) - len(differing),
            "disagree": len(differing),
            "ours as constructed": sum(r["expected"] is not None and r["ours"] == r["expected"] for r in differing),
            "second as constructed": sum(r["expected"] is not None and r["second"] == r["expected"] for r in differing),
            "truth not known": sum(r["expected"] is None for r in differing),
            "ours not as constructed": sum(
                e is not None and ours[key]["grade"] != e for key, e in zip(answers, known, strict=True)
            ),
        }
        rows += differing
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (args.out / "disagreements.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    (args.out / "table.md").write_text(table(summary, rows))
    print(table(summary, rows))


def read(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def keyed(path: Path) -> dict[tuple[str, int], Row]:
    """The rows of a file by problem id and number of the draw."""
    return {(row["id"], row["draw"]): row for row in read(path)}


def table(summary: dict[str, Row], rows: list[Row]) -> str:
    """The content of table.md: the counts of each benchmark, then the disagreements by the form of the answer."""
    columns = list(next(iter(summary.values())))
    lines = [f"| benchmark | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    lines += [f"| {name} | {' | '.join(str(s[c]) for c in columns)} |" for name, s in summary.items()]
    lines += ["", "Disagreements by form of the answer:", ""]
    lines += ["| benchmark | form | expected | ours | second | rows |", "| --- | --- | --- | --- | --- | ---: |"]
    words = {1.0: "right", 0.0: "wrong", None: "unknown"}
    kinds = Counter((r["benchmark"], r["form"], r["expected"], r["ours"], r["second"]) for r in rows)
    for (name, form, expected, ours, second), n in kinds.items():
        lines.append(f"| {name} | {form} | {words[expected]} | {words[ours]} | {words[second]} | {n} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
