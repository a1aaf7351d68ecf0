"""What a user installs: the wheel holds the embedded model, the recipes and the typing marker, and stays small."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_model_recipes_and_typing_marker(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 6_000_000
    names = set(zipfile.ZipFile(wheel).namelist())
    nano = {f"ibtpo/assets/nano/{n}" for n in ("config.json", "model.safetensors", "tokenizer.json", "README.md")}
    recipes = {f"ibtpo/recipes/{p.name}" for p in (ROOT / "src/ibtpo/recipes").glob("*.yaml")}
    assert len(recipes) >= 4
    folders = ("report/page", "viewer/page_files")
    page = {f"ibtpo/{folder}/{p.name}" for folder in folders for p in (ROOT / "src/ibtpo" / folder).iterdir()}
    assert {p.rpartition("/")[2] for p in page} >= {"viewer.html", "viewer.css", "app.js", "d3-hierarchy.LICENSE"}
    assert nano | recipes | page | {"ibtpo/py.typed", "ibtpo/integrations/verl/method/ibtpo.yaml"} <= names
