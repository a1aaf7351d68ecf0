"""What all report pages share: filling a template.

A page has no script, and its content policy forbids everything but its own style sheet: whatever text a run holds, the
page runs nothing and asks nothing of any network.
"""

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
    """A picture on the page, with what stands under it.

    key: its name, and its id on the page.
    title: its heading.
    svg: the drawing, an `<svg>` element.
    reads: how to read it, in sentences; may be empty.
    csv: the address of its CSV file, from the page.
    data: the points as drawn, as a `data:` address, so that they stay with a page that is sent on alone.
    note: how the curves were thinned for drawing; empty if they were not.
    """

    key: str
    title: str
    svg: Markup
    reads: str
    csv: str
    data: str
    note: str


def _shown(value: Any) -> Any:
    """What a template prints for a value: text gets its invisible characters shown as signs.

    Some of them turn the order of the text around them, and a run's text could so change what the page seems to say.
    """
    return value if not isinstance(value, str) or isinstance(value, Markup) else visible(value, keep="\n\r\t")


def render(template: str, sheet: Sheet, **values: Any) -> str:
    """Fills a template of the folder `page` and returns the page.

    template: its file name.
    sheet: the CSS classes of all drawings on the page.
    values: what the template names; one that is missing is an error.
    """
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
