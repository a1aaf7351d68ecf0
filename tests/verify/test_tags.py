"""Reasoning markup: which part of a completion is graded."""

import pytest

from ibtpo.errors import ConfigError
from ibtpo.verify import PROMPT_TEXT
from ibtpo.verify.countdown import countdown_reward
from ibtpo.verify.pool import VerifierPool
from ibtpo.verify.tags import final_text, final_texts, json_answer, pairs, without_thinking
from ibtpo.verify.walk import walk_reward


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("no tags", "no tags"),
        ("<think>a</think> b", "\n b"),
        ("a</think> b", " b"),
        ("<think>a", ""),
        ("b <think>a", "b "),
        ("<think>a</think>b<think>c</think>d", "\nb\nd"),
        ("<think>a <think> b</think> c</think> d", " d"),
        ("<THINK>a</Think>b", "\nb"),
        ("<think>a</thinking> b</think>c", "\nc"),
        ("[THINK]a[/THINK]b", "\nb"),
        ("<answer>5</answer>", "5"),
        ("x <answer>4</answer> y <Answer> 5 </ANSWER> z", "5"),
        ("<think><answer>4</answer></think><answer>5</answer>", "5"),
        ("<answer>4</answer><answer>5", "4"),
        ("the answer is 5 <answer>6", ""),
    ],
)
def test_the_final_text_is_without_thinking_and_of_tagged_answers_the_last(text: str, final: str) -> None:
    assert final_text(text) == final


def test_tags_of_one_s_own_replace_the_usual_ones() -> None:
    tags = {"thinking_tags": "<r> </r> ((( )))", "answer_tags": "<sol> </sol>"}
    assert final_text("<r>1</r>(((2)))<sol>3</sol>4", **tags) == "3"
    assert final_text("<think>1</think><answer>2</answer>", **tags) == "<think>1</think><answer>2</answer>"
    assert final_text("<think>1</think><answer>2</answer>", thinking_tags="", answer_tags="") == (
        "<think>1</think><answer>2</answer>"
    )
    assert pairs("<a> </a>") == (("<a>", "</a>"),)
    for wrong in ("<a>", "<a> </a> <b>", "<a> <a>"):
        with pytest.raises(ConfigError, match="pairs of an opening and a closing tag"):
            pairs(wrong)
    with pytest.raises(ConfigError, match="pairs of an opening and a closing tag"):
        VerifierPool("math", thinking_tags="<a>")


def test_a_prompt_that_ends_with_an_opening_tag_has_begun_the_thinking() -> None:
    prompts = ["q<think>\n", "q", [{"role": "user", "content": "q"}], "q<think>\n"]
    texts = ["a", "a", "a", "a</think>b"]
    assert final_texts(texts, prompts) == ["", "a", "a", "\nb"]


def test_the_prompt_as_the_model_read_it_decides_whether_thinking_was_begun() -> None:
    chat = {"prompt": [{"role": "user", "content": "q"}], "completion": r"\boxed{4}", "answer": "4"}
    with VerifierPool("math", workers=1) as pool:
        verdicts = pool.score([chat, {**chat, PROMPT_TEXT: "<user>q<assistant><think>\n"}, {**chat, PROMPT_TEXT: "q"}])
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_a_degenerate_completion_is_read_in_one_pass() -> None:
    assert without_thinking("<think>" * 50_000) == ""
    assert final_text("<answer>" * 50_000) == ""


def test_the_last_answer_of_a_json_object() -> None:
    assert json_answer('{"answer": "B", "why": "A"}') == "B"
    assert json_answer('{"final_answer": 1e-08}') == "1e-08"
    assert json_answer('{"answer": ["x", "y"]}') == "x, y"
    assert json_answer('{"answer": "\\frac{1}{2}"}') == "\\frac{1}{2}"
    assert json_answer("the answer") is None


def test_no_verifier_grades_thinking() -> None:
    numbers, target = [[3, 7, 2]], [19]
    for text, grade in [
        ("<think>Answer: 3*7-2</think> Answer: 3+7+2", 0.0),
        ("<think>Answer: 3+7+2</think> Answer: 3*7-2", 1.0),
        ("Answer: 3*7-2 is one idea</think>", 0.0),
        ("<think>Answer: 3*7-2", 0.0),
    ]:
        assert countdown_reward([text], numbers, target) == [grade]
    assert countdown_reward(["<so>3*7-2</so>"], numbers, target, answer_tags="<so> </so>") == [1.0]
    walk = "<think>+9 = 20.</think>\n\n+4 = 8.\n\nDone."
    assert walk_reward([walk, walk], [4, 4], [8, 9], [[4], [4]]) == [1.0, 0.0]
    box = r"<why>\boxed{4}</why> \boxed{5} <so>6</so>"
    row = {"prompt": "q", "completion": box, "answer": "6"}
    with VerifierPool("math", workers=1, thinking_tags="<why> </why>", answer_tags="<so> </so>") as pool:
        assert pool.score([row])[0].reward == 1.0


def test_a_tag_may_have_spaces_and_attributes() -> None:
    assert final_text('<think step="1">4</think>\n<answer type="final">5</answer >') == "5"
    assert final_text("< Think >4</ think > 5").strip() == "5"
    assert final_text("<think step='1'>4, never closed") == ""
    assert final_text("<answers>5</answers> 6") == "<answers>5</answers> 6"
