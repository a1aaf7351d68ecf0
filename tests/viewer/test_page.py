"""The tree viewer without a browser: what the page holds, what it forbids, what is refused, and the terminal."""

import gzip
import io
import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from rich.cells import cell_len

from helpers.places import GOLDEN
from helpers.trees import BUILDERS, OPTIONS
from helpers.view_pages import EVIL, Page, csp_hash, evil_tree, example_trees, wide_tree, write_run
from ibtpo import cli
from ibtpo._options import todays_names
from ibtpo._text import visible
from ibtpo.credit import CreditOptions
from ibtpo.errors import ConfigError, DataError
from ibtpo.metrics import COLUMNS, tree_scores
from ibtpo.score import ScoreOptions
from ibtpo.tree import ReasoningTree, write_trees
from ibtpo.viewer.page import default_output, tree_key, write_viewer
from ibtpo.viewer.terminal import print_tree
from ibtpo.viewer.without_script import marks_of


def assert_same(found: object, expected: object, where: str = "") -> None:
    if expected is None or found is None:
        assert found is expected, where
    else:
        assert found == pytest.approx(expected, abs=1e-9), where


def page_of(trees: list[ReasoningTree], folder: Path, **options: object) -> Page:
    write_trees(folder / "t.jsonl", trees)
    return Page(write_viewer(folder / "t.jsonl", **options).output)


# --- what the page holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_the_page_holds_what_ibtpo_score_prints_to_a_billionth(name: str, tmp_path: Path) -> None:
    page = Page(write_viewer(GOLDEN / f"{name}.jsonl", tmp_path / "p.html").output)
    printed = json.loads((GOLDEN / f"{name}.json").read_text())
    (tree,) = page.trees
    assert len(tree["parent"]) == len(printed["nodes"]) == len(tree["text"]) == len(tree["draws"])
    for column in COLUMNS:
        for node, found in zip(printed["nodes"], tree[column], strict=True):
            assert_same(found, node[column], f"{column} of {node['id']}")
    index = page.data("index")
    for mine, theirs in (("reward", "avg_reward"), ("ib", "ib_score"), ("cov", "cov_eta"), ("effective", "effective")):
        assert_same(index[mine][0], None if printed[theirs] is None else float(printed[theirs]), mine)


def test_a_tree_of_64_answers_comes_back_whole(tmp_path: Path) -> None:
    tree = wide_tree()
    (found,) = page_of([tree], tmp_path).trees
    assert found["text"] == [n.step.text for n in tree.nodes]
    assert found["parent"] == [n.parent for n in tree.nodes]
    assert found["draws"] == [n.draws for n in tree.nodes]
    assert found["tokens"] == [[]] + [list(n.step.token_ids) for n in tree.nodes[1:]]
    assert found["leaves"] == [[f.node, f.reward, f.stop] for f in tree.leaves]
    assert [r[:3] for r in found["rollouts"]] == [[r.at, r.tokens, r.round] for r in tree.rollouts]
    for node, rows in zip(tree.nodes, found["logprobs"], strict=True):
        assert rows == pytest.approx(node.step.logprobs, abs=5e-4)
    record = tree_scores(tree, CreditOptions())
    for column in COLUMNS:
        for node in record["nodes"]:
            assert_same(found[column][node["id"]], node[column], column)


def test_marks_go_by_raw_correctness_not_by_a_shaped_reward(tmp_path: Path) -> None:
    tree = BUILDERS["three_leaf"]()
    (plain,) = page_of([tree], tmp_path).trees
    assert plain["correct"] is None  # the rewards say it
    for leaf, shaped in zip(tree.leaves, (0.5, 0.25, 0.125), strict=True):
        leaf.reward = shaped
    tree.leaves[2].correct = None
    (found,) = page_of([tree], tmp_path).trees
    assert found["correct"] == [1.0, 0.0, None]
    assert marks_of(tree) == {2: ["✓ right"], 3: ["✗ wrong"], 4: ["⚠ no reward"]}


@pytest.mark.parametrize(("name", "given", "_"), OPTIONS, ids=[f"{o[0]}-{'-'.join(o[1])}" for o in OPTIONS])
def test_options_change_the_scores_as_they_do_for_ibtpo_score(
    name: str, given: dict, _: object, tmp_path: Path
) -> None:
    numbers = todays_names({k: float(v) if k in ("beta", "lam") else v for k, v in given.items()})
    page = Page(write_viewer(GOLDEN / f"{name}.jsonl", tmp_path / "p.html", options=numbers).output)
    score = ScoreOptions(**{k: v for k, v in numbers.items() if k != "lam"})
    record = tree_scores(BUILDERS[name](), CreditOptions(lam=numbers.get("lam", 0.1), score=score))
    for column in COLUMNS:
        for node in record["nodes"]:
            assert_same(page.trees[0][column][node["id"]], node[column], column)


def test_options_stored_by_the_trainer_are_used_and_single_ones_can_be_overridden(tmp_path: Path) -> None:
    tree = BUILDERS["three_leaf"]()
    tree.meta["search"] = {"score": {"beta": 3.0}}
    tree.meta["credit"] = {
        "advantage": "ibtpo",
        "lam": 0.5,
        "score": {"beta": 2.0, "confidence": "joint"},
        "ib_policy": "old",
    }
    expected = tree_scores(tree, CreditOptions(lam=0.5, score=ScoreOptions(ib_beta=2.0, confidence="joint")))
    assert page_of([tree], tmp_path).trees[0]["advantage"][1] == pytest.approx(
        expected["nodes"][1]["advantage"], abs=1e-9
    )
    expected = tree_scores(tree, CreditOptions(lam=0.5, score=ScoreOptions(ib_beta=4.0, confidence="joint")))
    found = page_of([tree], tmp_path, options={"ib_beta": 4.0, "lam": None}).trees[0]
    assert found["advantage"][1] == pytest.approx(expected["nodes"][1]["advantage"], abs=1e-9)
    assert "β 4, λ 0.5" in found["made"]["scores"]


def trained_with(advantage: str, **credit: object) -> ReasoningTree:
    tree = BUILDERS["three_leaf"]()
    tree.id = advantage
    tree.meta["credit"] = {"advantage": advantage, **credit}
    return tree


def test_the_advantage_shown_is_the_one_the_run_trained_with(tmp_path: Path) -> None:
    trees = [trained_with("treepo", prefix_weight="sqrt", batch_divisor=0.5), trained_with("grpo")]
    trees += [BUILDERS["three_leaf"](), trained_with("treepo")]
    treepo, grpo, plain, unknown = page_of(trees, tmp_path).trees
    # rewards 1, 0, 0 of the paths 1-2, 3 and 1-4; two answers share step 1
    assert unknown["advantage"][1:] == pytest.approx([1 / 12, 7 / 12, -1 / 3, -5 / 12])
    assert unknown["about"] == "mean over the answers through the step, before the batch is divided by its scale"
    assert treepo["advantage"][1:] == pytest.approx([2 / 12 / math.sqrt(2), 14 / 12, -2 / 3, -10 / 12])
    assert treepo["method"] == "treepo"
    assert treepo["about"] == (
        "mean over the answers through the step, times the weight of shared tokens (sqrt), divided by 0.5, the batch's "
        "scale"
    )
    up = 2 / 3 / (math.sqrt(1 / 3) + 1e-4)
    assert grpo["advantage"][1:] == pytest.approx([up / 4, up, -up / 2, -up / 2])
    assert treepo["advantage"][0] is grpo["advantage"][0] is None
    assert grpo["about"] == "mean over the answers through the step"
    assert (plain["method"], plain["about"]) == ("ibtpo", "A_GL + λ·A_IB")
    other = page_of(trees, tmp_path, options={"advantage": "grpo"}).trees
    assert [t["advantage"] for t in other] == [grpo["advantage"]] * 4
    assert [t["method"] for t in other] == ["grpo"] * 4
    with pytest.raises(ConfigError, match="unknown advantage 'grop'; did you mean 'grpo'"):
        page_of(trees, tmp_path, options={"advantage": "grop"})


def test_a_function_of_the_run_s_own_is_loaded_to_show_its_advantage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def f(tree, options):\n    return [[leaf.reward] * len(tree.path(leaf.node)) for leaf in tree.leaves]\n"
    (tmp_path / "viewed_advantage.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (tree,) = page_of([trained_with("viewed_advantage:f")], tmp_path).trees
    assert (tree["method"], tree["advantage"]) == ("viewed_advantage:f", [None, 0.5, 1, 0, 0])


def test_where_the_run_s_advantage_cannot_be_had_ib_tpo_s_is_shown_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "failing_advantage.py").write_text("def f(tree, options):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    gone, failing = trained_with("gone_xyz:f"), trained_with("failing_advantage:f")
    write_run(tmp_path, [gone, gone, failing, trained_with("grpo")])
    result = write_viewer(tmp_path)
    page = Page(result.output)
    ibtpo = tree_scores(gone, CreditOptions())["nodes"]
    for tree in page.trees[:3]:
        assert tree["method"] == "ibtpo"
        for found, node in zip(tree["advantage"], ibtpo, strict=True):
            assert_same(found, node["advantage"])
    assert [t["made"]["trained with"] for t in page.trees[1:]] == ["gone_xyz:f", "failing_advantage:f", "grpo"]
    assert page.trees[3]["method"] == "grpo"
    assert page.facts["remarks"] == list(result.remarks) == [
        "Trees that were trained with 'gone_xyz:f' are shown with IB-TPO's advantages: cannot load advantage "
        "'gone_xyz:f': ModuleNotFoundError: No module named 'gone_xyz'",
        "Trees that were trained with 'failing_advantage:f' are shown with IB-TPO's advantages: advantage "
        "'failing_advantage:f' gave 0 paths for the 3 trajectories of tree 'failing_advantage:f'",
    ]  # fmt: skip
    assert result.notes == ()
    assert all(remark in page.text for remark in result.remarks)  # without JavaScript too
    assert cli.main(["view", str(tmp_path)]) == 0
    assert capsys.readouterr().err.startswith("note: Trees that were trained with 'gone_xyz:f' are shown with IB-TPO's")
    assert cli.main(["view", str(tmp_path), "--advantage", "grpo"]) == 0
    assert capsys.readouterr().err == ""
    assert "p̂ 0.50" in printed(tmp_path, "gone_xyz:f")
    with pytest.raises(ConfigError, match="beta must be > 0"):
        write_viewer(tmp_path, options={"ib_beta": -1.0})


def test_none_stays_none_and_zero_stays_zero(tmp_path: Path) -> None:
    (tree,) = page_of([BUILDERS["inner_leaf"]()], tmp_path).trees
    assert tree["p_hat"][3] is None  # the verifier failed on the only answer there
    assert tree["a_gl"][0] == 0
    assert tree["eta1"][0] is None


def test_the_index_says_what_kind_of_tree_each_is(tmp_path: Path) -> None:
    saved = ReasoningTree("saved", [1], "?")
    s = BUILDERS["all_wrong"]().nodes[1].step
    saved.add(0, [s], 0.0, "eos")
    saved.add(0, [s], 1.0, "eos", round=1)
    right = BUILDERS["all_wrong"]()
    right.id = "right"
    for leaf in right.leaves:
        leaf.reward = leaf.correct = 1.0
    index = page_of([*example_trees(), saved, right, ReasoningTree("none", [1])], tmp_path).data("index")
    rows = {i: {k: v[n] for k, v in index.items()} for n, i in enumerate(index["id"])}
    assert [rows[i]["effective"] for i in ("three_leaf", "all_wrong", "saved", "right", "none")] == [1, 0, 1, 0, 0]
    assert [rows[i]["uniform"] for i in ("three_leaf", "all_wrong", "saved", "right", "none")] == [0, 1, 0, 1, 0]
    assert [rows[i]["kind"] for i in ("three_leaf", "all_wrong", "right", "none")] == ["", "wrong", "right", ""]
    assert [rows[i]["rescued"] for i in ("three_leaf", "saved", "none")] == [0, 1, 0]
    assert rows["none"]["reward"] is None
    assert rows["three_leaf"]["step"] is None


def test_what_all_prompts_begin_with_is_left_out_of_the_index(tmp_path: Path) -> None:
    trees = [ReasoningTree(str(i), [1], f"system: be good 🙂\nuser: question {i}\n") for i in range(3)]
    page = page_of(trees, tmp_path)
    assert page.data("index")["prompt"] == ["user: question 0", "user: question 1", "user: question 2"]
    assert page.facts["shared"] == len("system: be good xx\n")  # as JavaScript counts


def test_the_same_trees_give_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for _ in range(2):
        page_of(example_trees(), tmp_path)
        pages.append((tmp_path / "t.html").read_bytes())
    assert pages[0] == pages[1]


def test_small_trees_share_a_chunk_that_the_first_of_them_names(tmp_path: Path) -> None:
    long = evil_tree(20_000)
    page = page_of([*example_trees()[:3], long, example_trees()[3]], tmp_path)
    chunks = [i for attrs, _ in page.scripts if re.fullmatch(r"t\d+", i := attrs.get("id") or "")]
    assert chunks == ["t0", "t4"]
    assert [t["id"] for t in page.trees] == page.data("index")["id"]
    assert len(page.unpacked("t0").split("\n")) == 4


def test_token_texts_come_with_the_embedded_models_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tree = ReasoningTree("t", [1], meta={"model": "nano"})
    tree.add(0, [BUILDERS["three_leaf"]().nodes[1].step], 1.0, "eos")
    words = page_of([tree], tmp_path).data("words")
    assert set(words) == {"10", "11"}
    tree.meta["model"] = "/site-packages/ibtpo/assets/nano"  # as older runs have it
    assert set(page_of([tree], tmp_path).data("words")) == {"10", "11"}
    for other in ("/somewhere/else", "mine/phi-nano"):
        tree.meta["model"] = other
        assert page_of([tree], tmp_path).data("words") is None
    with pytest.raises(ConfigError, match=r"tokenizer\.json does not exist"):
        page_of([tree], tmp_path, tokenizer=tmp_path)


# --- safety --------------------------------------------------------------------------------------------------------


def test_the_policy_allows_our_own_scripts_and_styles_and_nothing_else(tmp_path: Path) -> None:
    page = page_of(example_trees(), tmp_path)
    assert page.policy["default-src"] == ["'none'"]
    assert page.policy["script-src"] == [*map(csp_hash, page.ours), csp_hash(page.unpacked("marked.umd.js"))]
    assert page.policy["style-src"] == [csp_hash(s) for s in page.styles]
    assert set(page.policy) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert len(page.ours) == 10
    assert len(page.styles) == 1
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not attrs_that_run(attributes)
    raw = (tmp_path / "t.html").read_text()
    for holder in ("Copyright 2010-2026 Mike Bostock", "2018+, MarkedJS"):
        assert holder in raw
    assert "THE SOFTWARE IS PROVIDED" in raw
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", raw)
    assert "innerHTML" not in raw
    assert "insertAdjacentHTML" not in raw
    assert "document.write" not in raw


def test_only_a_page_with_latex_holds_the_library_for_it(tmp_path: Path) -> None:
    page_of([BUILDERS["three_leaf"]()], tmp_path)
    assert (tmp_path / "t.html").stat().st_size < 200_000
    tree = BUILDERS["three_leaf"]()
    tree.nodes[1].step.text = "So \\(x = 2\\)."
    page = page_of([tree], tmp_path)
    packed = [page.unpacked(name) for name in ("marked.umd.js", "temml.min.js")]
    assert page.policy["script-src"] == [csp_hash(s) for s in [*page.ours, *packed]]
    assert "Copyright (c) 2020 Ron Kok" in (tmp_path / "t.html").read_text()


def attrs_that_run(names: set[str]) -> list[str]:
    return [n for n in names if n.startswith("on") or n in ("src", "style", "srcdoc", "action")]


def test_injected_markup_stays_text(tmp_path: Path) -> None:
    plain = page_of([BUILDERS["three_leaf"]()], tmp_path)
    page = page_of([evil_tree()], tmp_path, title=f"title {EVIL}")
    assert page.ours == plain.ours  # no script more, none cut short
    assert not attrs_that_run({name for _, attrs in page.tags for name in attrs})
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in plain.tags} == set()
    assert page.trees[0]["text"][1] == f"first {EVIL}"
    assert page.trees[0]["id"] == f"id {EVIL}"
    for raw in ("\x00", "\x1b", "\u202e", "\u2066"):
        assert raw not in (tmp_path / "t.html").read_text()
    assert visible(EVIL) in page.text
    for attrs, text in page.scripts:
        if "type" in attrs:
            assert "<" not in text


def test_a_lone_surrogate_is_named_with_its_line(tmp_path: Path) -> None:
    line = json.dumps({**BUILDERS["three_leaf"]().to_dict(), "prompt": "half \ud83d"})
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"t\.jsonl:1: prompt contains \\ud83d"):
        write_viewer(tmp_path / "t.jsonl")
    tree = BUILDERS["three_leaf"]()
    tree.meta["model"] = "half \ud83d"  # meta is free-form
    (tmp_path / "t.jsonl").write_text(json.dumps(tree.to_dict()) + "\n")
    assert "half" in Page(write_viewer(tmp_path / "t.jsonl").output).trees[0]["made"]["model"]


def test_control_characters_become_signs_and_ordinary_text_does_not_change() -> None:
    assert visible("a\x00b\x1b[31m\u202ec\x9b\ud800") == "a[U+0000]b[U+001B][31m[U+202E]c[U+009B][U+D800]"
    assert visible("π ≥ 3\n\tשלום 🙂") == "π ≥ 3\n\tשלום 🙂"
    assert visible("a\nb", "") == "a[U+000A]b"


# --- without JavaScript --------------------------------------------------------------------------------------------


def test_without_javascript_the_first_trees_are_lists_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    page = page_of([BUILDERS["three_leaf"]()], tmp_path)
    assert "here are the trees as lists" in page.text
    for text in ("1: p̂ 0.50, IB-Score +0.300", "2: p̂ 1.00, ✓ right", "3: p̂ 0.00, ✗ wrong", "What is 1 + 1?"):
        assert text in page.text
    many = []
    for i in range(60):
        many.append(wide_tree())
        many[-1].id = f"tree {i}"
    page = page_of(many, tmp_path)
    shown = sum(tag == "details" for tag, _ in page.tags)
    assert 0 < shown < 60
    assert f"the first {shown} of 60 trees" in page.text
    assert f"The other {60 - shown} are in this file too" in page.text


def test_a_deep_chain_does_not_nest_and_does_not_overflow(tmp_path: Path) -> None:
    tree = ReasoningTree("deep", [1], "?")
    s = BUILDERS["three_leaf"]().nodes[1].step
    tree.add(0, [s] * 3000, 1.0, "eos")
    page = page_of([tree], tmp_path)
    assert sum(tag == "ul" for tag, _ in page.tags) == 1
    assert len(page.trees[0]["parent"]) == 3001


# --- where it comes from and goes to -------------------------------------------------------------------------------


def test_a_run_folder_shows_all_steps_and_processes_in_order(tmp_path: Path) -> None:
    a, b, c, d = example_trees()[:4]
    write_run(tmp_path, [d], at=10)
    write_run(tmp_path, [a], "_rank0")
    write_run(tmp_path, [b, c], "_rank1")
    (tmp_path / "trees" / "step_000020.jsonl.gz.part").write_bytes(b"not finished")
    result = write_viewer(tmp_path)
    assert result.output == tmp_path / "trees.html"
    assert (result.trees, result.notes, result.bytes) == (4, (), result.output.stat().st_size)
    index = Page(result.output).data("index")
    assert index["step"] == [1, 1, 1, 10]
    assert index["id"] == [a.id, b.id, c.id, d.id]


def test_a_folder_of_steps_is_shown_as_a_run(tmp_path: Path) -> None:
    for at, tree in ((0, example_trees()[0]), (50, example_trees()[1])):
        write_trees(tmp_path / "probes" / f"step_{at:06d}.jsonl.gz", [tree])
    result = write_viewer(tmp_path / "probes")
    assert result.output == tmp_path / "probes" / "trees.html"
    assert Page(result.output).data("index")["step"] == [0, 50]


def test_a_half_written_run_is_shown_without_the_line_that_is_cut(tmp_path: Path, capsys) -> None:
    write_run(tmp_path, example_trees()[:2])
    file = write_run(tmp_path, [wide_tree(), wide_tree(), wide_tree()], at=2)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(b"".join(lines[:2])) + gzip.compress(lines[2])[:-200])
    assert cli.main(["view", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"left out: {file}:3: cannot be read: ")
    assert captured.out.endswith(" kB, 4 trees)\n")
    page = Page(tmp_path / "trees.html")
    assert len(page.facts["notes"]) == 1
    assert "step_000002.jsonl.gz:3" in page.facts["notes"][0]
    assert "step_000002.jsonl.gz:3" in page.text  # without JavaScript too
    file.write_bytes(gzip.compress(lines[0] + lines[1][:100]))
    result = write_viewer(tmp_path)
    assert result.trees == 3
    assert re.search(r"step_000002\.jsonl\.gz:2: Expecting .* \(char 100\)", result.notes[0])
    file.write_bytes(b"")
    assert re.search(r"step_000002\.jsonl\.gz: the file is empty", write_viewer(tmp_path).notes[0])


def test_a_wrong_tree_file_is_an_error_that_names_file_and_line(tmp_path: Path) -> None:
    good = json.dumps(BUILDERS["merged"]().to_dict())
    (tmp_path / "t.jsonl").write_text(f"{good}\n{good[:-30]}\n")
    with pytest.raises(DataError, match=r"t\.jsonl:2: "):
        write_viewer(tmp_path / "t.jsonl")
    assert not (tmp_path / "t.html").exists()
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read"):
        write_viewer(tmp_path / "nowhere.jsonl")
    with pytest.raises(
        DataError, match=r"holds no trees: neither trees/step_\*\.jsonl\.gz, .* nor the trees/\*\.jsonl of"
    ):
        write_viewer(tmp_path)
    tree = BUILDERS["merged"]()
    tree.meta["credit"] = {"lam": "much"}
    write_trees(tmp_path / "t.jsonl", [tree])
    with pytest.raises(DataError, match="tree 'merged': the options in its meta cannot be used"):
        write_viewer(tmp_path / "t.jsonl")


def test_only_a_viewers_page_is_overwritten(tmp_path: Path) -> None:
    write_trees(tmp_path / "t.jsonl", example_trees())
    write_viewer(tmp_path / "t.jsonl")
    write_viewer(tmp_path / "t.jsonl")
    (tmp_path / "mine.html").write_text("<p>my thesis</p>")
    with pytest.raises(ConfigError, match=r"mine\.html exists and was not written by ibtpo view"):
        write_viewer(tmp_path / "t.jsonl", tmp_path / "mine.html")
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        write_viewer(tmp_path / "t.jsonl", tmp_path)
    assert (tmp_path / "mine.html").read_text() == "<p>my thesis</p>"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("name", "page"), [("a.jsonl", "a.html"), ("b.jsonl.gz", "b.html"), ("c.txt", "c.txt.html")])
def test_the_page_lies_beside_the_trees(name: str, page: str) -> None:
    assert default_output(Path("x") / name) == Path("x") / page


def test_a_key_is_what_encode_uri_component_makes_of_step_and_id() -> None:
    assert tree_key("a b/ü&#:'()*~!-_.") == "a%20b%2F%C3%BC%26%23%3A'()*~!-_."
    assert tree_key("gsm8k-1", 20) == "20%3Agsm8k-1"
    assert unquote(tree_key(EVIL, 3)) == f"3:{EVIL}"


def test_the_command_says_what_it_wrote_and_refuses_what_does_not_fit(tmp_path: Path, capsys) -> None:
    write_trees(tmp_path / "t.jsonl", example_trees())
    assert cli.main(["view", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "new" / "p.html"), "--ib-beta", "2"]) == 0
    assert re.fullmatch(r"wrote .*p\.html \(\d+ kB, 5 trees\)\n", capsys.readouterr().out)
    assert Page(tmp_path / "new" / "p.html").trees[0]["made"]["scores"].startswith("β 2, ")
    for words, message in (
        (["--ib-beta", "0"], "beta must be > 0"),
        (["--confidence", "geomaen"], "did you mean 'geomean'?"),
        (["--terminal", "-o", "x.html"], "give one of them"),
        (["--terminal", "--title", "x"], "--title and --tokenizer are for a page"),
        (["--tokenizer", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "q.html")], "t.jsonl cannot be read; is it a"),
        (["--tree", "merged"], "--tree goes with --terminal"),
        (["--terminal", "--tree", "mergde"], "unknown tree 'mergde'; did you mean 'merged'?"),
    ):
        assert cli.main(["view", str(tmp_path / "t.jsonl"), *words]) == 2
        assert message in capsys.readouterr().err


# --- terminal ------------------------------------------------------------------------------------------------------


def printed(source: Path, *args: object, width: int = 140) -> str:
    from rich.console import Console

    out = io.StringIO()
    print_tree(source, *args, console=Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_the_terminal_shows_draws_values_scores_and_verdicts() -> None:
    assert printed(GOLDEN / "merged.jsonl").splitlines() == [
        "merged  4 answers, average reward 0.50, first answers right 0.50, IB-Score +0.188, Cov(η1, η2) +0.130, "
        "effective",
        "p̂ 0.50 IB +0.075 Toss.",
        "├──   1 ×3 p̂ 0.67 IB +0.300 10",
        "│   ├──   2 ×2 p̂ 1.00 ✓ right ✓ right 11",
        "│   └──   3 p̂ 0.00 ✗ wrong 12",
        "└──   4 p̂ 0.00 ✗ wrong 20",
    ]
    lines = printed(GOLDEN / "inner_leaf.jsonl").splitlines()
    assert "│   ├──   4 p̂ 1.00 ✓ right 11" in lines
    assert "└──   3 p̂ – ⚠ verifier error 30" in lines
    assert any("1 p̂ 0.50 IB +1.200 ✗ wrong, cut short 10" in line for line in lines)


def test_terminal_lists_and_page_say_why_a_tree_was_ended(tmp_path: Path) -> None:
    tree = BUILDERS["all_wrong"]()
    tree.meta["stopped"] = "all <wrong>\x1b"
    write_trees(tmp_path / "t.jsonl", [tree])
    assert printed(tmp_path / "t.jsonl").startswith("all_wrong  3 answers (stopped: all <wrong>[U+001B]), average")
    output = write_viewer(tmp_path / "t.jsonl").output
    assert "3 answers (stopped: all &lt;wrong&gt;[U+001B]), average" in output.read_text()
    assert Page(output).trees[0]["made"]["stopped"] == "all <wrong>\x1b"


def test_in_the_terminal_a_tree_that_nobody_graded_is_not_called_uniform(tmp_path: Path) -> None:
    tree = ReasoningTree("t", [1], "?")
    tree.add(0, [BUILDERS["all_wrong"]().nodes[1].step], None, "verifier_error")
    write_trees(tmp_path / "t.jsonl", [tree])
    title = printed(tmp_path / "t.jsonl").splitlines()[0]
    assert title == "t  1 answer, average reward –, first answers right –, IB-Score –, Cov(η1, η2) –"


def test_stored_options_that_cannot_be_used_are_named_with_file_and_tree(tmp_path: Path) -> None:
    wrong = ReasoningTree("odd", [1], "?", None, {"search": {"score": {"beta": -1}}})
    write_trees(tmp_path / "t.jsonl", [wrong])
    with pytest.raises(DataError, match=r"t\.jsonl: tree 'odd': the options in its meta .* ib_beta must be > 0"):
        write_viewer(tmp_path / "t.jsonl")
    write_run(tmp_path / "run", [wrong, *example_trees()])
    result = write_viewer(tmp_path / "run")
    assert result.trees == len(example_trees())
    assert "tree 'odd'" in result.notes[0]


def test_in_the_terminal_escapes_are_signs_and_narrow_ones_do_not_break_lines(tmp_path: Path) -> None:
    write_trees(tmp_path / "t.jsonl", [evil_tree(1000)])
    text = printed(tmp_path / "t.jsonl", width=40)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    steps = [line for line in text.splitlines() if re.search(r"──", line)]
    assert len(steps) == 4
    assert all(cell_len(line) <= 40 for line in text.splitlines())
    assert "[U+001B][31mred" in printed(tmp_path / "t.jsonl", width=2000)


def test_of_many_trees_a_wrong_name_lists_a_few(tmp_path: Path) -> None:
    write_trees(tmp_path / "t.jsonl", [ReasoningTree(f"\x1b[31m{i}", [1]) for i in range(1000)])
    with pytest.raises(ConfigError) as error:
        printed(tmp_path / "t.jsonl", "nothing like it")
    assert len(str(error.value)) < 300
    assert "\x1b" not in str(error.value)


def test_a_tree_of_a_run_is_found_by_step_and_id(tmp_path: Path) -> None:
    first, second = BUILDERS["three_leaf"](), BUILDERS["three_leaf"]()
    second.nodes[0].step.text = "The same, later"
    write_run(tmp_path, [first])
    write_run(tmp_path, [second], at=2)
    assert "What is 1 + 1?" in printed(tmp_path, "three_leaf")
    assert "The same, later" in printed(tmp_path, "2:three_leaf")


# --- observations --------------------------------------------------------------------------------------------------


def test_what_the_environment_gave_is_marked_as_such_everywhere_and_has_no_probability(tmp_path: Path) -> None:
    page = Page(write_viewer(GOLDEN / "replies.jsonl", tmp_path / "p.html").output)
    (tree,) = page.trees
    assert tree["given"] == [2, 5, 6, 9]
    assert [tree["logprobs"][i] for i in tree["given"]] == [[], [], [], []]
    assert [tree["tokens"][i] for i in tree["given"]] == [[50], [51], [52, 53], [54]]
    # without a script
    assert "2: given by the environment, p̂ 0.50, IB-Score +0.900, given 2 times<50>" in page.text
    assert "9: given by the environment, p̂ 0.00, ✗ wrong<54>" in page.text
    assert page.text.count("given by the environment") == 4
    # in the terminal
    lines = printed(GOLDEN / "replies.jsonl").splitlines()
    assert "│   ├──   2 given ×2 p̂ 0.50 IB +0.900 <50>" in lines
    assert sum(" given " in line for line in lines) == 4
