"""metrics.jsonl read as it grows gives what reading it whole gives, and reads no line twice that was whole."""

import json

import numpy as np
import pytest

from helpers.report_runs import rows
from ibtpo.errors import DataError
from ibtpo.storage.metrics_log import GIVEN_SHARE, MetricsLog


def line(step, **metrics):
    return json.dumps({"step": step, "ibtpo/generated_tokens": 100.0, **metrics}) + "\n"


def test_what_was_added_is_read_and_a_torn_last_line_waits(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    notes = []
    assert len(log.read(notes).steps) == 0
    assert notes == ["metrics.jsonl is missing: no step was finished."]
    path.write_text(line(1, loss=0.5) + line(2, loss=0.25)[:20])
    notes = []
    assert log.read(notes)["loss"].tolist() == [0.5]
    assert notes == ["The last line of metrics.jsonl (line 2) is cut off and left out."]
    path.write_text(line(1, loss=0.5) + line(2, loss=0.25)[:-1])  # whole, but for the newline
    notes = []
    assert log.read(notes)["loss"].tolist() == [0.5, 0.25]
    path.write_text(line(1, loss=0.5) + line(2, loss=0.25) + line(3, loss=0.125))
    assert log.read(notes)["loss"].tolist() == [0.5, 0.25, 0.125]
    assert notes == []


def test_lines_that_were_whole_are_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(i) for i in range(1, 1001)))
    log = MetricsLog(path)
    log.read([])
    read = []
    take = MetricsLog._take
    monkeypatch.setattr(MetricsLog, "_take", lambda self, *args: read.append(args[1]) or take(self, *args))
    with path.open("a") as f:
        f.write(line(1001))
    assert log.read([]).steps.tolist() == list(range(1, 1002))
    assert [number for number in read if number <= 1000] == []


@pytest.mark.parametrize("other", [line(7, loss=1.0), line(7, loss=1.0) * 3 + line(8, loss=2.0) * 40])
def test_a_file_that_was_replaced_is_read_from_its_beginning(tmp_path, other):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(i) for i in range(1, 30)))
    log = MetricsLog(path)
    log.read([])
    path.write_text(other)
    assert log.read([]).steps.tolist() == sorted({json.loads(row)["step"] for row in other.splitlines()})


def test_a_broken_line_is_named_with_its_number_each_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    path.write_text(line(1))
    log.read([])
    with path.open("a") as f:
        f.write("oops\n" + line(2))
    for _ in range(2):
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: not valid JSON"):
            log.read([])


def test_the_share_of_given_tokens_is_worked_out_where_an_environment_spoke(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, **{"ibtpo/given_tokens": 300.0}) + line(2, **{"ibtpo/given_tokens": 0.0}))
    assert MetricsLog(path).read([])[GIVEN_SHARE].tolist() == [0.75, 0.0]
    path.write_text(line(1, **{"ibtpo/given_tokens": 0.0}))
    assert not MetricsLog(path).read([]).has(GIVEN_SHARE)


def test_the_rows_of_a_run_become_columns(tmp_path):
    path = tmp_path / "metrics.jsonl"
    made = rows(5)
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    curves = MetricsLog(path).read([])
    assert curves.tokens.tolist() == [1000.0 * i for i in range(1, 6)]
    assert curves.seconds == pytest.approx(5.0 * np.arange(1, 6))
    assert curves["ibtpo/eff_rate"].tolist() == [row["ibtpo/eff_rate"] for row in made]
