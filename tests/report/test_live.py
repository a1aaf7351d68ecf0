"""The pages of a run in progress: what the server gives, to whom, and what it says when files are half written."""

import re
import signal
import socket
import subprocess
import sys

import httpx2
import pytest
from starlette.testclient import TestClient

from helpers.report_runs import make_run, result, rows, tree
from ibtpo.cli import main
from ibtpo.errors import CheckpointError, ConfigError
from ibtpo.report import follow
from ibtpo.report.live import make_app, serve
from ibtpo.tree import write_trees

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in progress, and a client of its server; pages are made as often as they are asked for."""
    monkeypatch.setattr(follow, "SHARE", 1e9)
    folder = make_run(tmp_path / "run", rows(20), evals={"before": result(0.2)}, config={"system_prompt": EVIL})
    app, token = make_app(folder)
    return folder, TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False), f"/{token}"


def add_steps(folder, begin, end, cut=0):
    text = "".join(str(row).replace("'", '"') + "\n" for row in rows(end)[begin:])
    with (folder / "metrics.jsonl").open("a") as f:
        f.write(text[: len(text) - cut])


# --- what it gives ------------------------------------------------------------------------------------------------


def test_the_report_grows_with_the_run_and_is_sent_only_when_it_has_changed(run):
    folder, client, at = run
    first = client.get(f"{at}/")
    assert first.status_code == 200
    assert "· step 20." in first.text
    seen = {"If-None-Match": first.headers["ETag"]}
    assert client.get(f"{at}/", headers=seen).status_code == 304
    add_steps(folder, 20, 25)
    second = client.get(f"{at}/", headers=seen)
    assert second.status_code == 200
    assert "· step 25." in second.text
    assert f'<meta name="version" content={second.headers["ETag"]}>' in second.text
    assert '"step":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25]' in second.text


def test_nothing_is_written_into_the_run_folder(run):
    folder, client, at = run
    before = sorted(folder.rglob("*"))
    client.get(f"{at}/")
    assert client.get(f"{at}/trees.html").status_code == 200
    assert sorted(folder.rglob("*")) == before


def test_the_csv_files_have_every_step(run):
    _, client, at = run
    table = client.get(f"{at}/report_data/cov.csv")
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert len(table.text.splitlines()) == 21


def test_the_trees_have_versions_and_a_script_that_the_policy_names(run):
    folder, client, at = run
    page = client.get(f"{at}/trees.html")
    version = page.headers["ETag"].strip('"')
    assert f'<meta name="version" content="{version}">' in page.text
    assert client.get(f"{at}/trees.html", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304
    assert client.head(f"{at}/trees.html").headers["ETag"] == page.headers["ETag"]
    script = follow.page_text("live_trees.js")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.text)[1]
    assert f"script-src {follow.content_hash(script)} " in policy
    assert "; connect-src 'self'; img-src data:; base-uri 'none'" in policy
    assert f"<script>{script}</script>" in page.text
    write_trees(folder / "trees" / "step_000020.jsonl.gz", [tree("newest", [0, 1])])
    assert client.head(f"{at}/trees.html").headers["ETag"] != page.headers["ETag"]
    assert "newest" in client.get(f"{at}/trees.html").text


def test_of_many_tree_files_the_newest_are_shown(run):
    folder, client, at = run
    for step in range(30, 60):
        write_trees(folder / "trees" / f"step_{step:06d}.jsonl.gz", [tree(f"tree-{step}", [0, 1])])
    page = client.get(f"{at}/trees.html").text
    assert "run, live: the newest 20 of 32 tree files" in page
    assert "tree-59" in page
    assert "tree-39" not in page


def test_a_run_without_trees_says_so(tmp_path):
    app, token = make_app(make_run(tmp_path / "run", [], evals={}, trees={}))
    client = TestClient(app, base_url="http://localhost:8000")
    assert "holds no step" in client.get(f"/{token}/").text
    answer = client.get(f"/{token}/trees.html")
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/plain; charset=utf-8")
    assert "holds no trees" in answer.text


# --- half-written files -------------------------------------------------------------------------------------------


def test_a_last_line_that_is_still_being_written_is_left_out_until_it_is_whole(run):
    folder, client, at = run
    add_steps(folder, 20, 21, cut=30)
    assert "· step 20." in client.get(f"{at}/").text
    with (folder / "metrics.jsonl").open("a") as f:
        f.write((str(rows(21)[20]).replace("'", '"') + "\n")[-30:])
    page = client.get(f"{at}/").text
    assert "· step 21." in page
    assert "cut off" not in page


def test_a_file_that_cannot_be_read_is_named_and_the_page_stays(run):
    folder, client, at = run
    (folder / "eval.json").write_text('{"before": {"avg": 0.')
    add_steps(folder, 20, 25)
    page = client.get(f"{at}/").text
    assert "Not up to date: " in page
    assert "eval.json: not valid JSON" in page
    (folder / "eval.json").write_text("{}")
    page = client.get(f"{at}/").text
    assert "Not up to date" not in page
    assert "· step 25." in page
    assert page.count("env.json is missing") == 0


def test_a_tree_file_that_is_still_being_copied_is_left_out(run):
    folder, client, at = run
    whole = (folder / "trees" / "step_000010.jsonl.gz").read_bytes()
    copied = folder / "trees" / "step_000020.jsonl.gz"
    copied.write_bytes(whole[: len(whole) // 2])
    assert "step_000020.jsonl.gz:1: cannot be read" in client.get(f"{at}/").text
    assert client.get(f"{at}/trees.html").status_code == 200
    copied.write_bytes(whole)
    assert "cannot be read" not in client.get(f"{at}/").text


def test_making_pages_takes_a_tenth_of_a_core_at_most(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", rows(20), evals={})
    clock = [100.0]
    monkeypatch.setattr(follow.time, "monotonic", lambda: clock[0])
    cpu = iter(range(100))
    monkeypatch.setattr(follow.time, "thread_time", lambda: float(next(cpu)))  # each page takes a second of it
    found = follow.Follower(folder)
    add_steps(folder, 20, 25)
    clock[0] += 9.9
    assert b"step 20." in found.report()[1]
    clock[0] += 0.2
    assert b"step 25." in found.report()[1]


# --- who gets it --------------------------------------------------------------------------------------------------


def test_only_who_knows_the_token_gets_anything(run):
    _, client, at = run
    others = ["/", "/x/", f"{at[:-1]}/", f"{at}x/", "/%C3%A9/", f"{at}/config.yaml", f"{at}/metrics.jsonl"]
    climbing = ["/../config.yaml", "/..%2fconfig.yaml", "/report_data/../../config.yaml", "/%2e%2e/config.yaml"]
    for address in [*others, *(at + end for end in climbing), f"{at}//etc/passwd", f"{at}/report_data/"]:
        answer = client.get(address)
        assert answer.status_code == 404, address
        assert answer.text.lower() == "not found", address
    assert len(at) >= 33  # 24 random bytes


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "0.0.0.0:8000", ""])
def test_another_host_name_is_refused(run, host):
    _, client, at = run
    assert client.get(f"{at}/", headers={"Host": host}).status_code == 400
    assert client.get(f"{at}/", headers={"Host": "localhost:9999"}).status_code == 200  # through a tunnel


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(run, method):
    _, client, at = run
    assert client.request(method, f"{at}/").status_code == 405


def test_the_answers_let_nothing_out_and_nothing_in(run):
    _, client, at = run
    for address in ("/", "/trees.html", "/report_data/cov.csv", "/nothing"):
        headers = client.get(at + address).headers
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert "Access-Control-Allow-Origin" not in headers
    text = client.get(f"{at}/").text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-\S+'; script-src( 'sha256-\S+'){3}; connect-src 'self'; "
        r"img-src data:; base-uri 'none'; form-action 'none'",
        policy,
    )
    assert EVIL not in text
    assert text.count("<script") == 4


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["report", "view"])
def test_the_command_serves_until_it_is_interrupted(tmp_path, verb):
    folder = make_run(tmp_path / "run", rows(3))
    command = [sys.executable, "-m", "ibtpo", verb, str(folder), "--live"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        addresses = dict(line.strip().split(": ", 1) for line in lines[:2])
        assert "· step 3 · finished." in httpx2.get(addresses["report"], timeout=60).text
        assert httpx2.get(addresses["trees"], timeout=60).status_code == 200
        assert list(addresses) == (["report", "trees"] if verb == "report" else ["trees", "report"])
        assert lines[2].endswith("on this machine only, until Ctrl-C\n")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out, error) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "RUN", "RUN", "--live"], "--live follows one run, got 2"),
        (["report", "RUN", "--port", "1"], "--port is for --live"),
        (["report", "RUN", "--live", "-o", "x.html"], "leave --output out"),
        (["view", "RUN", "--live", "--ib-beta", "1"], "leave --ib-beta out"),
        (["report", "RUN", "--live", "--port", "99999"], "--port 99999 cannot be used"),
        (["view", "nowhere", "--live"], "nowhere is no folder"),
    ],
)
def test_the_command_refuses_with_one_line(tmp_path, capsys, words, message):
    folder = make_run(tmp_path / "run", rows(3))
    assert main([w.replace("RUN", str(folder)) for w in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_the_extra_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ibtpo.report.live")
    assert main(["report", str(make_run(tmp_path / "run", rows(3))), "--live"]) != 0
    error = capsys.readouterr().err
    assert "pip install 'ibtpo[live]'" in error
    assert error.count("\n") == 1


def test_a_taken_port_is_one_line(tmp_path):
    folder = make_run(tmp_path / "run", rows(3))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} cannot be used"):
            serve(folder, port, lambda *addresses: None)
    with pytest.raises(CheckpointError, match="is no run folder"):
        serve(tmp_path, 0, lambda *addresses: None)
