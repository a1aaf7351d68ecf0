"""The screen of `ibtpo train`, rendered at fixed sizes, and what is left of it when a run ends."""

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from ibtpo.training import live
from ibtpo.training.live import LiveScreen, sparkline

ARGS = SimpleNamespace(bf16=False, fp16=False)


def log(step, **changed):
    return {
        "ibtpo/trajectories": 96.0, "ibtpo/generated_tokens": 1000.0, "ibtpo/generated_tokens_total": 1000.0 * step,
        "ibtpo/policy_rate": 0.2 + 0.01 * step, "ibtpo/eff_rate": 0.5, "ibtpo/ib_score": -0.9, "ibtpo/cov_eta": 0.0213,
        "ibtpo/entropy": 1.25, "ibtpo/truncated": 0.125, "ibtpo/verifier_errors": 0.0, "sampling/logp_gap_max": 1e-6,
        "time/sampling": 6.0, "time/update": 3.0, "time/credit": 0.01, "time/verifying": 0.0, "time/other": 1.0,
        **{k.replace("__", "/"): v for k, v in changed.items()},
    }  # fmt: skip


def state(step=0, main=True):
    return SimpleNamespace(global_step=step, max_steps=50, is_world_process_zero=main)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    return now


def run(clock, console, steps=8, total=20_000, **changed):
    screen = LiveScreen(console, total)
    screen.on_train_begin(ARGS, state(), None)
    for step in range(1, steps + 1):
        clock[0] += 10.0
        screen.on_log(ARGS, state(step), None, log(step, **changed))
    return screen


def terminal(width, height=24):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False,
                   _environ={"TERM": "xterm"}, color_system=None)  # fmt: skip


def rendered(screen, width):
    console = Console(file=io.StringIO(), width=width, color_system=None, _environ={})
    screen.console = console
    console.print(screen.screen())
    return console.file.getvalue().split("\n")[:-1]


def test_the_screen_shows_the_last_values_and_the_budget_at_80_columns(clock):
    screen = run(clock, terminal(80))
    screen.held_out = "25.0 % [20.0, 30.0] before training"
    screen.on_save(ARGS, state(8), None)
    lines = [line.rstrip() for line in rendered(screen, 80)]
    screen.stop()
    assert lines[0].startswith("step 8 ━")
    assert lines[0].endswith("8k/20k tokens  2:00 left  100 tok/s")  # 8000 tokens in 80 s, 12000 to go
    assert lines[2:] == [
        "accuracy       0.28 ▁▂▃▄▅▆▇█",
        "Eff-Rate       0.50 ▄▄▄▄▄▄▄▄",
        "IB-Score      -0.90 ▄▄▄▄▄▄▄▄",
        "Cov(η1,η2)  +0.0213 ▄▄▄▄▄▄▄▄",
        "entropy        1.25 ▄▄▄▄▄▄▄▄",
        "truncated      0.12 ▄▄▄▄▄▄▄▄",
        "",
        "time       sampling 60%  update 30%  other 10%",
        "held-out   25.0 % [20.0, 30.0] before training",
        "saved      checkpoint-8",
    ]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_the_screen_fits_24_lines(clock, width):
    screen = run(
        clock, terminal(width), 60, ibtpo__verifier_errors=3.0, ibtpo__eff_rate=0.0, sampling__logp_gap_max=0.5
    )
    screen.held_out = "25.0 % [20.0, 30.0] before training"
    screen.on_save(ARGS, state(60), None)
    lines = rendered(screen, width)
    screen.stop()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 16
    bars = [sum(c in live.BARS for c in line) for line in lines if line.startswith("accuracy")]
    assert bars == [min(40, width - 23)]
    assert any("confidence follows correctness" in line for line in lines) == (width >= 120)


def test_without_a_token_budget_steps_are_counted(clock):
    screen = run(clock, terminal(80), 5, total=None)
    first = rendered(screen, 80)[0]
    screen.stop()
    assert "of 50  7:30 left" in first


def test_a_run_that_was_resumed_does_not_count_the_tokens_of_the_one_before_as_speed(clock):
    screen = LiveScreen(terminal(80), 20_000)
    screen.on_train_begin(ARGS, state(9), None)
    clock[0] += 10
    screen.on_log(ARGS, state(10), None, log(10))
    first = rendered(screen, 80)[0].rstrip()
    screen.stop()
    assert first.endswith("10k/20k tokens  1:40 left  100 tok/s")


def test_warnings_come_when_there_is_a_reason_and_the_one_about_signal_goes_again(clock):
    screen = run(clock, terminal(80), 5, ibtpo__verifier_errors=3.0, ibtpo__eff_rate=0.0, sampling__logp_gap_max=0.5)
    assert list(screen.warnings.values()) == [
        "15 answers could not be verified (3.1 %)",
        "engine and trainer disagree: log-prob gap 0.5 at step 5",
        "Eff-Rate 0 for 5 steps: no question carries a signal",
    ]
    screen.on_log(ARGS, state(6), None, log(6))
    assert "signal" not in screen.warnings
    screen.stop()
    assert not run(clock, terminal(80), 4, ibtpo__eff_rate=0.0).warnings


def test_half_precision_is_allowed_a_larger_gap(clock):
    screen = LiveScreen(Console(file=io.StringIO()), 1000)
    half = SimpleNamespace(bf16=True, fp16=False)
    screen.on_log(half, state(1), None, log(1, sampling__logp_gap_max=0.05))
    assert not screen.warnings


def test_at_the_end_the_terminal_is_clean_and_a_summary_is_left(clock):
    console = terminal(80)
    screen = run(clock, console, 3)
    console.file.truncate(0)
    screen.on_train_end(ARGS, state(3), None)
    screen.stop()  # twice, as after Ctrl-C
    end = console.file.getvalue()
    assert "\x1b[?25h" in end  # the cursor is back
    assert end.count("\x1b[2K") >= 9  # every line of the screen is cleared
    summary = "step 3  96 traj  3k tokens  100 tok/s  Eff-Rate 0.50  IB-Score -0.90  accuracy 0.23"
    assert end.rstrip().endswith(summary)
    assert end.count("step 3") == 2  # the last frame, cleared, and the summary


def test_piped_output_is_a_plain_line_a_step(clock):
    console = Console(file=io.StringIO(), width=60, _environ={})
    run(clock, console, 2).stop()
    assert console.file.getvalue() == (
        "step    1  96 traj  1k tokens  100 tok/s  Eff-Rate 0.50  IB-Score -0.90  accuracy 0.21\n"
        "step    2  96 traj  2k tokens  100 tok/s  Eff-Rate 0.50  IB-Score -0.90  accuracy 0.22\n"
    )


def test_nothing_is_written_when_quiet_and_by_other_processes(clock):
    quiet = Console(file=io.StringIO(), quiet=True, force_terminal=True)
    run(clock, quiet).stop()
    assert quiet.file.getvalue() == ""
    other = terminal(80)
    screen = LiveScreen(other, 1000)
    screen.on_train_begin(ARGS, state(main=False), None)
    screen.on_log(ARGS, state(1, main=False), None, log(1))
    screen.stop()
    assert other.file.getvalue() == ""


def test_a_number_that_is_not_defined_is_a_dash_and_a_gap(clock):
    screen = run(clock, terminal(80), 2)
    screen.on_log(ARGS, state(3), None, log(3, ibtpo__cov_eta=None, ibtpo__ib_score=math.nan))
    lines = [line.rstrip() for line in rendered(screen, 80)]
    screen.stop()
    assert "Cov(η1,η2)        - ▄▄" in lines
    assert "IB-Score -" in screen.summary()


def test_a_sparkline_goes_from_the_least_to_the_greatest_of_the_last_values():
    assert sparkline([9, 0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, None, 2.0, math.nan], 8) == "▁ █ "
    assert sparkline([None], 8) == sparkline([], 8) == ""
