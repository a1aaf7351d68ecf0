"""Where things are: the checkout, its golden files, and the benchmarks beside it, which may be absent."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
DATA = ROOT.parent / "shared" / "data"
