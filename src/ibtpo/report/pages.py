"""What all reports share: a page without a script, whose content policy forbids everything but its own style sheet."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .._text import visible
from .._version import __version__
from .charts import Sheet

GENERATOR = "ibtpo report"


@dataclass(frozen=True)
class Figure:
    """A plot on the page. csv: its file in the data folder. data: the drawn points as a `data:` address."""

    key: str
    title: str
    svg: Markup
    reads: str
    csv: str
    data: str
    note: str


def _shown(value: Any) -> Any:
    """What a template prints: text with its invisible characters visible, since they could turn the page's words."""
    return value if not isinstance(value, str) or isinstance(value, Markup) else visible(value, keep="\n\r\t")


def render(template: str, sheet: Sheet, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("ibtpo.report", "page"), autoescape=True, undefined=StrictUndefined,
        finalize=_shown, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "run.css")[0] + sheet.css()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return environment.get_template(template).render(
        **values, style=Markup(style), policy=policy, generator=f"{GENERATOR} {__version__}"
    )
