"""What the checks found: a line each with the number and its bound, and a JSON file with card, versions and numbers."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ibtpo.storage.env import collect_env


@dataclass
class Check:
    """One check.

    name: what was measured.
    state: "ok", "FAIL", "skip" (its note says why), or "info" where there is no bound.
    measured: the number, or None.
    bound: what it must not exceed, or with `least` not fall below; None where there is no bound.
    least: see `bound`.
    note: what a reader has to know besides.
    """

    name: str
    state: str
    measured: float | None = None
    bound: float | None = None
    least: bool = False
    note: str = ""

    def line(self) -> str:
        """The check as it is printed."""
        number = "" if self.measured is None else f": {self.measured:.3g}"
        bound = "" if self.bound is None else f" (at {'least' if self.least else 'most'} {self.bound:.3g})"
        return f"{self.state:<4} {self.name}{number}{bound}" + (f"; {self.note}" if self.note else "")


class Report:
    """Collects checks, prints each, writes them to a JSON file, and ends with an exit code.

    path: the JSON file, written anew after each group of checks: it is there also if the time is cut short.
    seconds: time after which no further group is begun.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.checks: list[Check] = []
        self._path = path
        self._env = collect_env()
        self._began = time.monotonic()
        self._seconds = seconds

    def add(self, name: str, measured: float, bound: float | None, *, least: bool = False, note: str = "") -> None:
        """Adds a number, which passes if it is finite and within its bound."""
        if bound is None:
            state = "info"
        else:  # NaN compares as false, so that it fails either way
            state = "ok" if (measured >= bound if least else measured <= bound) else "FAIL"
        self._append(Check(name, state, float(measured), bound, least, note))

    def skip(self, name: str, why: str) -> None:
        """Adds a check that was not made."""
        self._append(Check(name, "skip", note=why))

    def group(self, name: str, work: Callable[[], None]) -> None:
        """Makes a group of checks. One that raises fails and lets the others go on; none begins when time is up."""
        if time.monotonic() - self._began > self._seconds:
            self.skip(name, f"{self._seconds:.0f} s had passed")
            return
        try:
            work()
        except Exception as e:
            traceback.print_exc()
            self._append(Check(name, "FAIL", note=f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"))
        self._write()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def finish(self) -> int:
        """Prints how many passed; returns 0 if nothing failed, else 1."""
        self._write()
        passed, failed, skipped = (sum(c.state == state for c in self.checks) for state in ("ok", "FAIL", "skip"))
        print(f"{passed} passed, {failed} failed, {skipped} skipped, on {card()}: {self._path}", flush=True)
        return 1 if failed else 0

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "card": card(),
            "seconds": round(time.monotonic() - self._began, 1),
            "passed": all(check.state != "FAIL" for check in self.checks),
            "checks": [asdict(check) for check in self.checks],
            "env": self._env,
        }
        self._path.write_text(json.dumps(found, indent=1) + "\n")

    def _append(self, check: Check) -> None:
        self.checks.append(check)
        print(check.line(), flush=True)


def card() -> str:
    """The name of the GPU, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
