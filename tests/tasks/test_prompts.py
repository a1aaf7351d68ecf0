"""Which id a row of a training data set gives its tree."""

from ibtpo._seeds import stable_hash
from ibtpo.tasks.prompts import prompt_id


def test_an_id_is_the_row_s_own_also_zero_else_a_hash_of_its_prompt_and_never_taken_twice() -> None:
    assert prompt_id({"id": 0, "prompt": "a"}, set()) == "0"
    assert prompt_id({"id": "q7", "prompt": "a"}, set()) == "q7"
    hashed = f"{stable_hash('a'):x}"
    assert prompt_id({"prompt": "a"}, set()) == prompt_id({"id": "", "prompt": "a"}, set()) == hashed
    assert prompt_id({"id": None, "prompt": "a"}, {hashed, hashed + "+"}) == hashed + "++"
