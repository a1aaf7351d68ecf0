"""The table of a comparison for a paper: its numbers, and that no run's settings become markup."""

import re
import shutil
import subprocess

import pytest

from ibtpo.report.differences import Estimate, Group, Line
from ibtpo.report.paper import cells, forest_alt, how, latex, markdown

EVIL = r"a|b \input{/etc/passwd} $x^2$ & 100 % _u_ ~ <b onmouseover=1> [x](javascript:1) `c` #1 ‮ \end{tabular}"


def line(name, after, minus=None, seeds=("1", "2"), pairs="seeds 1, 2"):
    half = lambda m: Estimate(m, m - 0.05, m + 0.05)  # noqa: E731
    return Line(
        Group(name, list(range(len(seeds))), list(seeds)), list(seeds) if after is not None else [], 200, half(0.2),
        None if after is None else half(after), [after] * len(seeds) if after is not None else [],
        None if after is None else half(after - 0.2), None if minus is None else half(minus), pairs, len(seeds), 0.5,
        100_780.0,
    )  # fmt: skip


def plain(cell):
    return cell.replace("\u00a0", " ").replace("\u202f", " ")


def test_the_cells_hold_the_numbers_in_percent_and_points():
    assert [plain(c) for c in cells(line("grpo", 0.312, -0.041))] == [
        "grpo", "1, 2", "20.0 [15.0, 25.0]", "31.2 [26.2, 36.2]", "+11.2 [+6.2, +16.2]", "−4.1 [−9.1, +0.9]", "50.0",
        "31.2, 31.2", "100 780",
    ]  # fmt: skip
    one = [plain(c) for c in cells(line("grpo", 0.5, 0.1, seeds=("3",)))]
    assert one[3:6] == ["50.0 [45.0, 55.0] †", "+30.0 [+25.0, +35.0] †", "+10.0 [+5.0, +15.0] †"]
    assert cells(line("grpo", None))[1:4] == ["none measured", "20.0 [15.0,\u00a025.0]", "–"]


def test_one_seed_and_strange_pairs_are_explained_under_the_table():
    table = [line("ibtpo", 0.4), line("grpo", 0.3, -0.1)]
    assert "†" not in how(table)
    table.append(line("treerl", 0.3, -0.1, seeds=("9",), pairs="no common seed: 9 with 1"))
    assert "† One seed" in how(table)
    assert how(table).endswith("treerl: no common seed: 9 with 1.")


def test_markdown_has_a_row_a_group_and_shows_names_as_text():
    text = markdown([line("ibtpo", 0.4), line(EVIL, 0.3, -0.1)], 4)
    header, rule, first, second, blank, note, end = text.split("\n")
    assert header.startswith("| method | seeds | before, % | after: avg@4, % | change, points | minus ibtpo, points |")
    assert re.fullmatch(r"\|( --- \|){9}", rule)
    assert first.startswith("| ibtpo | 1, 2 |")
    unescaped = re.sub(r"\\.", "", second)
    assert unescaped.count("|") == 10  # the pipe of the name is text
    assert not set(unescaped) & set("<>`$&_")
    assert "[U+202E]" in second.replace("\\", "")
    assert (blank, end) == ("", "")
    assert note.startswith("Accuracy on 200 held-out problems")


def test_latex_shows_names_as_text():
    text = latex([line("ibtpo", 0.4), line(EVIL, 0.3, -0.1)], 4)
    row = next(r for r in text.split("\n") if "input" in r)
    assert r"\input" not in row
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\textasciicircum{}2\$ \& 100 \% \_u\_" in row
    assert len(re.findall(r"(?<!\\)&", row)) == 8
    assert text.count(r"\end{tabular}") == 2  # of the table, and of values over their intervals
    assert text.isascii()
    assert r" & \under{$-$10.0}{\scriptsize [$-$15.0,~$-$5.0]} & " in row
    assert row.endswith(r" & 100\,780 \\[2pt]")


def test_latex_takes_no_name_for_an_argument_or_a_dash():
    row = latex([line("[3pt] --x ''y", 0.4)], 4).split("\n")[9]
    assert row.startswith("{}[3pt] -{}-x '{}'y & 1, 2 & ")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_is_taken_by_latex(tmp_path):
    table = latex([line("ibtpo", 0.4), line(EVIL, 0.3, -0.1, seeds=("1",)), line("[x] naïve", 0.1, -0.3)], 4)
    page = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "t.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_the_picture_is_told_in_words():
    words = plain(forest_alt([line("ibtpo", 0.4), line("grpo", 0.3, -0.1), line("none", None)]))
    assert words == (
        "ibtpo: 40.0 [35.0, 45.0] %; grpo: 30.0 [25.0, 35.0] %, minus the first −10.0 [−15.0, −5.0] points"
    )
