"""Reading a server's HTTP answer: its JSON, what it says went wrong, and when to come back."""

import contextlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from .._text import short
from ..errors import EngineError

API_KEY_VARIABLE = "IBTPO_SERVER_API_KEY"


def headers(api_key: str | None) -> dict[str, str]:
    """Headers for every request: the bearer token, if a key is set."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def hint(status: int) -> str:
    """What the user can do about an HTTP status, as the end of an error message; empty where nothing is known."""
    if status in (401, 403):
        return f"; put the server's key into {API_KEY_VARIABLE}"
    if status in (301, 302, 307, 308):
        return "; give the URL it redirects to"
    return ""


def told(error: Exception) -> str:
    """An exception's message in one line, or its type if it has none."""
    return short(error, show=str) or type(error).__name__


def message(response: httpx2.Response) -> str:
    """What a server says went wrong: the message in its JSON error, or else the beginning of its text."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        body = response.json()
        error = body.get("error")
        said = error.get("message") if isinstance(error, dict) else error or body.get("message") or body.get("detail")
        if said:
            return short(said, 500, str)
    return short(response.text, 200, str) or "no message"


def read_json(response: httpx2.Response) -> Any:
    """The JSON of an answer's body. Raises `EngineError` when the body is something else."""
    try:
        return response.json()
    except ValueError as e:
        raise EngineError(
            f"{response.url} did not answer with JSON but with {response.text[:80]!r}; is it a vLLM or SGLang server?"
        ) from e


def retry_after(response: httpx2.Response) -> float:
    """Seconds to wait, from the `Retry-After` header's number or date; 0 if it is missing or cannot be read."""
    text = response.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0
