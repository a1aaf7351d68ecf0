"""The public surface of the package: what is listed exists, and importing it is free."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import ibtpo
from ibtpo._extras import EXTRAS, missing_package


@pytest.mark.parametrize("name", ibtpo.__all__)
def test_every_public_name_can_be_imported_and_is_what_its_module_defines(name: str) -> None:
    value = getattr(ibtpo, name)
    assert value.__name__ == name
    assert value.__module__ == f"ibtpo.{ibtpo._MODULE_OF[name]}"


def test_the_three_lists_of_public_names_agree_and_are_sorted() -> None:
    tree = ast.parse(Path(ibtpo.__file__).read_text())
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == ibtpo._MODULE_OF
    assert ibtpo.__all__ == sorted(ibtpo._MODULE_OF)


def test_importing_the_package_loads_neither_numpy_nor_torch() -> None:
    code = "import ibtpo, sys; print([m for m in ('numpy', 'torch', 'yaml', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_science_and_the_evaluation_do_not_load_torch() -> None:
    names = [n for n, m in ibtpo._MODULE_OF.items() if not m.startswith(("training", "engines.transformers"))]
    code = f"import ibtpo, sys; [getattr(ibtpo, n) for n in {names}]; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'IBTPOTrianer'"):
        ibtpo.IBTPOTrianer  # noqa: B018


def test_the_version_is_the_installed_one() -> None:
    assert ibtpo.__version__ == metadata.version("ibtpo")


def test_a_missing_optional_package_names_its_install_line() -> None:
    error = missing_package(ModuleNotFoundError("No module named 'trl.trainer'", name="trl.trainer"), "ibtpo.X")
    assert str(error) == "ibtpo.X needs the package 'trl': pip install 'ibtpo[train]'"
    assert missing_package(ModuleNotFoundError("…", name="somebody_elses"), "this") is None


def test_every_extra_that_errors_name_exists() -> None:
    provided = metadata.metadata("ibtpo").get_all("Provides-Extra")
    assert set(EXTRAS.values()) <= set(provided or ())
