"""Tools for models that call functions, as TRL and this package's trainer take them: `tools=[python]`."""

from collections.abc import Callable

from .sandbox import Limits, Sandbox

_MOST = 4000  # characters of a result that a model is shown


def python_tool(limits: Limits | None = None, *, most_characters: int = _MOST) -> Callable[[str], str]:
    """A tool `python(code)` that runs code in the sandbox, see `python`.

    limits: what a call may use.
    most_characters: of a result that is longer, the middle is left out.

    Raises `DependencyError` where code cannot be isolated. So make the tool by this function: given `python` itself,
    TRL would tell the model of the error, in every call, and go on.
    """
    chosen = limits or Limits()
    Sandbox(chosen).close()

    def python(code: str) -> str:
        """Runs a Python program without network and files, and returns what it prints and its last line's value.

        Args:
            code: The program. Nothing is kept from one call to the next.

        Returns:
            What the program has printed, the value of its last line if that is an expression, and its error if any.
        """
        return _result(code, chosen, most_characters)

    return python


def python(code: str) -> str:
    """Runs a Python program without network and files, and returns what it prints and its last line's value.

    Args:
        code: The program. Nothing is kept from one call to the next.

    Returns:
        What the program has printed, the value of its last line if that is an expression, and its error if any.
    """
    return _result(code, Limits(), _MOST)


def _result(code: str, limits: Limits, most: int) -> str:
    with Sandbox(limits, deadline=limits.patience + 10) as box:
        run = box.run(code, echo=True)
    text = run.stdout + run.stderr
    if run.ended == "timeout":
        text += f"\nTimeoutError: the program took more than {limits.seconds:g} s\n"
    elif run.ended not in ("ok", "error"):
        text += f"\nthe program was ended by {run.ended}\n"
    text = text.strip("\n")
    if len(text) > most:
        text = f"{text[: most // 2]}\n… {len(text) - most // 2 * 2} characters left out …\n{text[-(most // 2) :]}"
    return text
