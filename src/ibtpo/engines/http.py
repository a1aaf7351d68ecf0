"""What an HTTP answer says: its JSON, its complaint, when to come back."""

import contextlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from ..errors import EngineError

API_KEY_VARIABLE = "IBTPO_SERVER_API_KEY"


def headers(api_key: str | None) -> dict[str, str]:
    """Of every request."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def hint(status: int) -> str:
    """What to do about a status; may be empty."""
    if status in (401, 403):
        return f"; put the server's key into {API_KEY_VARIABLE}"
    if status in (301, 302, 307, 308):
        return "; give the URL it redirects to"
    return ""


def told(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def message(response: httpx2.Response) -> str:
    """What a server says went wrong: the message of its JSON error, else the beginning of its text."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        body = response.json()
        error = body.get("error")
        told = error.get("message") if isinstance(error, dict) else error or body.get("message") or body.get("detail")
        if told:
            return " ".join(str(told).split())[:500]
    return " ".join(response.text.split())[:200] or "no message"


def read_json(response: httpx2.Response) -> Any:
    """The body. Raises `EngineError` when it is something else."""
    try:
        return response.json()
    except ValueError as e:
        raise EngineError(
            f"{response.url} did not answer with JSON but with {response.text[:80]!r}; is it a vLLM or SGLang server?"
        ) from e


def retry_after(response: httpx2.Response) -> float:
    """Seconds, from a number or a date; 0 where there is none that can be read."""
    text = response.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0
