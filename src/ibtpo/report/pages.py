"""What all report pages share: filling a template.

A page's content policy forbids everything but its own style sheet and its own scripts, named by their hashes: whatever
text a run holds, the page runs nothing else and asks nothing of any network. The page of a run in progress may ask the
address that it came from, too.
"""

import base64
import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .._text import visible
from .._version import __version__
from .charts import Sheet

GENERATOR = "ibtpo report"
SCRIPTS = ("uPlot.iife.min.js", "charts.js", "live.js")  # in the folder `page`; the last is for a run in progress

# What the page of a run in progress may do besides: ask its own address for what is new. Its icon is an empty `data:`
# address: else browsers ask the server for one, which the policy forbids and Firefox then complains of.
LIVE_POLICY = "connect-src 'self'; img-src data:"


@dataclass(frozen=True)
class Figure:
    """A picture on the page, with what stands under it.

    key: its name, and its id on the page.
    title: its heading.
    svg: the drawing, an `<svg>` element.
    reads: how to read it, in sentences; may be empty.
    csv: the address of its CSV file, from the page.
    data: the points as drawn, as a `data:` address, so that they stay with a page that is sent on alone; may be empty.
    note: how the curves were thinned for drawing; empty if they were not.
    picture: the address of its files .svg and .pdf, without these endings; empty if there are none.
    """

    key: str
    title: str
    svg: Markup
    reads: str
    csv: str
    data: str
    note: str
    picture: str = ""


def _shown(value: Any) -> Any:
    """What a template prints for a value: text gets its invisible characters shown as signs.

    Some of them turn the order of the text around them, and a run's text could so change what the page seems to say.
    """
    return value if not isinstance(value, str) or isinstance(value, Markup) else visible(value, keep="\n\r\t")


def render(template: str, sheet: Sheet, charts: Markup | None = None, live: str = "", **values: Any) -> str:
    """Fills a template of the folder `page` and returns the page.

    template: its file name.
    sheet: the CSS classes of all drawings on the page.
    charts: what the script draws the charts from, as JSON; None for a page without script.
    live: the page's version if it follows a run in progress, by asking for itself again and again; else empty.
    values: what the template names; one that is missing is an error.
    """
    style = page_text("run.css") + sheet.css()
    scripts = [page_text(name) for name in SCRIPTS[: 0 if charts is None else 3 if live else 2]]
    if scripts:
        style = page_text("uPlot.min.css") + style
    policy = [f"style-src {content_hash(style)}"]
    policy += ["script-src " + " ".join(map(content_hash, scripts))] if scripts else []
    policy += [LIVE_POLICY] if live else []
    return _environment().get_template(template).render(
        **values, charts=charts, live=live, style=Markup(style), scripts=[Markup(script) for script in scripts],
        licence=Markup(page_text("uPlot.LICENSE").replace("--", "- -")), generator=f"{GENERATOR} {__version__}",
        policy="; ".join(["default-src 'none'", *policy, "base-uri 'none'", "form-action 'none'"]),
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    """The templates, which are compiled once."""
    return Environment(
        loader=PackageLoader("ibtpo.report", "page"), autoescape=True, undefined=StrictUndefined,
        finalize=_shown, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def page_text(name: str) -> str:
    """A file of the folder `page`."""
    return (resources.files(__package__) / "page" / name).read_text("utf-8")


def content_hash(text: str) -> str:
    """How a content policy names a script or a style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
