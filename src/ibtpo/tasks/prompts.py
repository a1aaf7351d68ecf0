"""From a problem to the tokens a model is given: chat template or bare text, and what does not fit."""

from typing import Any

from .._text import half_character
from ..errors import ConfigError, DataError
from .problems import Message, Problem


def encode_prompt(
    problem: Problem, tokenizer: Any, *, system_prompt: str | None = None, chat_template: bool | None = None
) -> tuple[str, list[int]]:
    """The prompt as the model reads it: its text, and (P,) token ids.

    tokenizer: of transformers. chat_template: use the tokenizer's; None means if it has one.

    With a template, the conversation is rendered once, up to where the assistant speaks, and the text encoded without
    further special tokens, since the template writes them itself: no second beginning-of-sequence token. A question
    that already starts with the template's own control tokens is taken as rendered and encoded as it is; control
    tokens inside a question are a `DataError`, for there they would end it early. Without a template the text gets the
    tokenizer's special tokens, less an end-of-sequence token; a system prompt comes first, then an empty line.

    Raises `ConfigError` where template, tokenizer and prompt do not fit together.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if chat_template and not has_template:
        raise ConfigError(
            "chat_template=True, but the tokenizer has no chat template; use an instruct model's, or False"
        )
    if has_template and chat_template is not False:
        return _encode_chat(problem, tokenizer, system_prompt)
    if not isinstance(problem.prompt, str):
        raise ConfigError(
            f"problem {problem.id!r} is a conversation, which needs a chat template; "
            + ("drop chat_template=False" if has_template else "the tokenizer has none: use an instruct model's")
        )
    text = problem.prompt if system_prompt is None else f"{system_prompt}\n\n{problem.prompt}"
    _check_whole(problem.id, text)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    ids = list(tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"])
    if ids and eos and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos):
        ids.pop()  # a prompt that ends the sequence leaves nothing to continue
    return text, ids


def trl_prompt(problem: Problem, tokenizer: Any, system_prompt: str | None = None) -> str | list[Message]:
    """The prompt in the form TRL's trainers tokenise to the very ids `encode_prompt` gives.

    A conversation for a chat model, which TRL renders with the template; else text, which gets the tokenizer's special
    tokens.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return encode_prompt(problem, tokenizer, system_prompt=system_prompt)[0]
    if isinstance(problem.prompt, str) and _is_rendered(problem.id, problem.prompt, tokenizer):
        text, ids = encode_prompt(problem, tokenizer, system_prompt=system_prompt)
        doubled = list(tokenizer(text)["input_ids"]) != ids  # the tokenizer would add what the text already starts with
        return text.removeprefix(tokenizer.bos_token) if doubled and tokenizer.bos_token else text
    return _messages(problem.prompt, system_prompt)


def _messages(prompt: str | list[Message], system_prompt: str | None) -> list[Message]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_prompt is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def _encode_chat(problem: Problem, tokenizer: Any, system_prompt: str | None) -> tuple[str, list[int]]:
    text = problem.prompt
    if isinstance(text, str) and _is_rendered(problem.id, text, tokenizer):
        if system_prompt is not None:
            raise ConfigError(f"problem {problem.id!r} is already in chat form; system_prompt cannot be added to it")
    else:
        text = _render(tokenizer, _messages(text, system_prompt))
    _check_whole(problem.id, text)
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_whole(identity: str, text: str) -> None:
    """Tokenizers refuse half a character with an error nobody understands."""
    if (half := half_character(text)) is not None:
        raise DataError(
            f"problem {identity!r}: its prompt, or the instruction or system prompt around it, contains {half}, half a "
            "character (a lone surrogate); write the whole one or remove it"
        )


def _render(tokenizer: Any, messages: list[Message]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program: it raises what it likes
        roles = ", ".join(message["role"] for message in messages)
        advice = "; put the system prompt into the instruction" if messages[0]["role"] == "system" else ""
        raise ConfigError(f"the chat template refuses messages of roles {roles}: {error}{advice}") from error


def _is_rendered(identity: str, text: str, tokenizer: Any) -> bool:
    """Whether a question is already in the template's form. Its control tokens are those a rendered probe contains."""
    probe = "PROBE"
    before, _, after = _render(tokenizer, [{"role": "user", "content": probe}]).partition(probe)
    special = {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.get_added_vocab())}
    control = sorted(token for token in special if token.strip() and token in before + after)
    found = [token for token in control if token in text]
    if not found:
        # A template in plain words ("### Assistant:") is known by how it ends.
        return not control and bool(after.strip()) and text.rstrip().endswith(after.rstrip())
    if text.lstrip().startswith(tuple(found)):
        return True
    raise DataError(
        f"problem {identity!r}: its question contains {found[0]!r}, a control token of the chat template; "
        "remove it, or give the whole prompt in chat form"
    )


def check_prompt_length(identity: str, tokens: int, context: int) -> None:
    """Raises `DataError` unless a prompt leaves room for at least one token in a context of `context` tokens."""
    if tokens > context - 1:
        raise DataError(
            f"problem {identity!r}: its prompt has {tokens} tokens, the model's context holds {context} and one must "
            "be left to answer; drop the problem or use a model with a longer context"
        )
