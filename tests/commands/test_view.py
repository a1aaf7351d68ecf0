"""`ibtpo view`: its errors; tests/viewer has those of the page."""

import json
from pathlib import Path


def test_errors_show_what_a_file_holds_without_sending_it_to_the_terminal(call, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"\x1b]0;title\x07\u202e": 1, "naïve": 2}) + "\n")
    code, _, err = call("view", tmp_path / "t.jsonl")
    assert code == 2
    assert r"found \x1b]0;title\x07\u202e, naïve" in err
