"""From a problem to the tokens that a model is given, through the chat template or as bare text."""

import datetime
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .._seeds import stable_hash
from .._text import half_character
from ..errors import ConfigError, DataError
from .problems import Message, Problem

# Chat templates that write today's date get this one, so that a run resumed tomorrow, or a checkpoint measured then, is
# asked the same. It is the date that the templates of Llama 3 write where they are given none.
TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
_TEMPLATES = "transformers.utils.chat_template_utils"  # the module in which transformers asks for the date

# What `apply_chat_template` is called with, here and by TRL: not for `chat_template_kwargs`.
_OURS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict", "return_tensors",
         "chat_template", "padding", "truncation", "max_length")  # fmt: skip

# Tags around thinking and answers. They are tokens of many models and stand in templates, but they end no turn.
_THINKING = re.compile(r"[<\[◁]\|?/?[\w:-]*(think|thought|reason|answer|solution)[\w:-]*\|?[>\]▷]", re.IGNORECASE)


class _TemplateDate(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "_TemplateDate":
        """The date that templates write."""
        return cls.fromisoformat(TEMPLATE_DATE.isoformat())


@contextmanager
def fixed_date() -> Iterator[None]:
    """Makes every chat template that is rendered in the block write `TEMPLATE_DATE` where it would write today's date.

    transformers gives templates a function for that, `strftime_now`, and takes none from outside in its place.
    """
    module: Any = sys.modules.get(_TEMPLATES)  # loaded with any tokenizer of transformers
    before = getattr(module, "datetime", None)
    if before is None:
        yield
        return
    module.datetime = _TemplateDate
    try:
        yield
    finally:
        module.datetime = before


def check_template_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """`chat_template_kwargs` as a dictionary.

    Raises `ConfigError` for a name that is no variable of a template, but an argument of `apply_chat_template` itself.
    """
    kwargs = dict(kwargs or {})
    if ours := [name for name in kwargs if name in _OURS]:
        raise ConfigError(f"chat_template_kwargs are variables of the chat template; {ours[0]!r} is none: leave it out")
    return kwargs


def encode_prompt(
    problem: Problem,
    tokenizer: Any,
    *,
    system_prompt: str | None = None,
    chat_template: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    rendering: Mapping[str, Any] | None = None,
) -> tuple[str, list[int]]:
    """The prompt as the model reads it: its text, and its (P,) token ids.

    problem: its prompt is text or a conversation.
    tokenizer: a transformers tokenizer.
    system_prompt: put before the prompt; a conversation that begins with one keeps its own.
    chat_template: whether to use the tokenizer's chat template; None means if it has one.
    chat_template_kwargs: variables for the template, such as {"enable_thinking": False}.
    rendering: further arguments of `apply_chat_template`: the tools that the model may call.

    With a template, the conversation is rendered once, up to where the assistant speaks. The tokenizer then adds no
    special tokens, since the template writes them itself: there is no second beginning-of-sequence token. A question
    that starts with the template's own control tokens is taken as rendered already and encoded as it is. Where a
    template writes today's date, it writes `TEMPLATE_DATE`.

    Without a template, the tokenizer adds its special tokens, of which an end-of-sequence token is taken away again.
    Between a system prompt and the question there is an empty line.

    Raises `ConfigError` where template, tokenizer and prompt do not fit together, and `DataError` for control tokens
    inside a question, which would end it early, and for half a character.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if chat_template and not has_template:
        raise ConfigError(
            "chat_template=True, but the tokenizer has no chat template; use an instruct model's, or False"
        )
    if chat_template_kwargs and (chat_template is False or not has_template):
        raise ConfigError(
            f"chat_template_kwargs {dict(chat_template_kwargs)} are for a chat template, but "
            + ("none is used: chat_template is False" if has_template else "the tokenizer has none; leave them out")
        )
    if has_template and chat_template is not False:
        arguments = {**check_template_kwargs(chat_template_kwargs), **(rendering or {})}
        return _encode_chat(problem, tokenizer, system_prompt, arguments)
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


def trl_prompt(
    problem: Problem,
    tokenizer: Any,
    system_prompt: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str | list[Message]:
    """The prompt in the form that TRL's trainers turn into the very ids that `encode_prompt` gives.

    For a model with a chat template that is a conversation, which TRL renders; for others, and for a question that is
    rendered already, it is text, to which the tokenizer adds its special tokens.

    problem, tokenizer, system_prompt, chat_template_kwargs: see `encode_prompt`, which also says what is raised.
    """
    how: dict[str, Any] = {"system_prompt": system_prompt, "chat_template_kwargs": chat_template_kwargs}
    if getattr(tokenizer, "chat_template", None) is None:
        return encode_prompt(problem, tokenizer, **how)[0]
    arguments = check_template_kwargs(chat_template_kwargs)
    if isinstance(problem.prompt, str) and _is_rendered(problem.id, problem.prompt, tokenizer, arguments):
        text, ids = encode_prompt(problem, tokenizer, **how)
        doubled = list(tokenizer(text)["input_ids"]) != ids  # it would add the token that the text already starts with
        return text.removeprefix(tokenizer.bos_token) if doubled and tokenizer.bos_token else text
    return _messages(problem.prompt, system_prompt)


def _messages(prompt: str | list[Message], system_prompt: str | None) -> list[Message]:
    """A prompt as a conversation, with the system prompt first unless it has one."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_prompt is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def _encode_chat(
    problem: Problem, tokenizer: Any, system_prompt: str | None, arguments: Mapping[str, Any]
) -> tuple[str, list[int]]:
    text = problem.prompt
    if isinstance(text, str) and _is_rendered(problem.id, text, tokenizer, arguments):
        if system_prompt is not None:
            raise ConfigError(f"problem {problem.id!r} is already in chat form; system_prompt cannot be added to it")
    else:
        text = _render(tokenizer, _messages(text, system_prompt), arguments)
    _check_whole(problem.id, text)
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_whole(identity: str, text: str) -> None:
    """Raises `DataError` for half a character, which tokenizers refuse with an error that nobody understands."""
    if (half := half_character(text)) is not None:
        raise DataError(
            f"problem {identity!r}: its prompt, or the instruction or system prompt around it, contains {half}, half a "
            "character (a lone surrogate); write the whole one or remove it"
        )


def _render(tokenizer: Any, messages: list[Message], arguments: Mapping[str, Any]) -> str:
    """The text that the chat template makes of a conversation, up to where the assistant speaks."""
    try:
        with fixed_date():
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
        return str(text)
    except Exception as error:  # a template is a program: it raises what it likes
        roles = ", ".join(message["role"] for message in messages)
        advice = "; put the system prompt into the instruction" if messages[0]["role"] == "system" else ""
        raise ConfigError(f"the chat template refuses messages of roles {roles}: {error}{advice}") from error


def _is_rendered(identity: str, text: str, tokenizer: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a question is already in the chat template's form.

    It is if it starts with one of the template's control tokens, which are the special tokens that the template puts
    around a probe; tags such as <think> are none, since a question or an instruction may name them. Raises `DataError`
    for a question that has one of them further on.
    """
    probe = "PROBE"
    before, _, after = _render(tokenizer, [{"role": "user", "content": probe}], arguments).partition(probe)
    special = {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.get_added_vocab())}
    control = sorted(t for t in special if t.strip() and t in before + after and not _THINKING.fullmatch(t))
    found = [token for token in control if token in text]
    if not found:
        # A template in plain words ("### Assistant:") is known by how it ends.
        return not control and bool(_THINKING.sub("", after).strip()) and text.rstrip().endswith(after.rstrip())
    if text.lstrip().startswith(tuple(found)):
        return True
    raise DataError(
        f"problem {identity!r}: its question contains {found[0]!r}, a control token of the chat template; "
        "remove it, or give the whole prompt in chat form"
    )


def check_prompt_length(identity: str, tokens: int, context: int) -> None:
    """Checks that a prompt leaves room for an answer of at least one token, and raises `DataError` if not.

    identity: the problem's id, for the message.
    tokens: tokens of the prompt.
    context: tokens that the model's context holds.
    """
    if tokens > context - 1:
        raise DataError(
            f"problem {identity!r}: its prompt has {tokens} tokens, the model's context holds {context} and one must "
            "be left to answer; drop the problem or use a model with a longer context"
        )


def prompt_id(row: Mapping[str, Any], taken: Collection[str]) -> str:
    """The id under which a row of a training data set gets its tree: its column `id`, else a hash of its prompt.

    row: columns of a data set, `prompt` among them.
    taken: ids that others have already; an id that is among them gets a "+" or more.
    """
    given = row.get("id")
    id = f"{stable_hash(row['prompt']):x}" if given is None or given == "" else str(given)
    while id in taken:
        id += "+"
    return id
