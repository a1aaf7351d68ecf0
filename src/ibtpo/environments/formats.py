"""Between tokens and what environments read and say: a turn's tokens as a message, and an observation as tokens.

`TextFormat` is for plain prompts: an observation is text that follows the turn as it is. `ChatFormat` is for chat
templates: an observation is messages, and its tokens are those that the template itself puts after a turn, as TRL
finds them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from ..errors import ConfigError
from . import Message, Said, tool_name


class Format(Protocol):
    """Turns tokens into messages, and messages into tokens."""

    def message(self, ids: list[int], before: list[int], tools: Sequence[Any]) -> Message:
        """The turn that the model has sampled.

        ids: (T,) its tokens, with the one that ended it.
        before: (P,) all tokens before it.
        tools: the tools that the model knows of.
        """
        ...

    def observation(self, said: Said) -> list[int]:
        """The tokens of what an environment said, up to where the model goes on. Raises `ConfigError`."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a piece of text, without special tokens."""
        ...


class TextFormat:
    """The format of plain prompts.

    encode: text -> token ids, without special tokens.
    decode: token ids -> text, special tokens skipped.
    """

    def __init__(self, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> None:
        self.encode = encode
        self._decode = decode

    def message(self, ids: list[int], before: list[int], tools: Sequence[Any]) -> Message:
        """See `Format`."""
        return {"role": "assistant", "content": self._decode(ids)}

    def observation(self, said: Said) -> list[int]:
        """See `Format`. Raises `ConfigError` for messages, and for text without a token."""
        if not isinstance(said, str):
            raise ConfigError("the environment answered with messages, which need a chat template; let it return text")
        if not (ids := self.encode(said)):
            raise ConfigError(f"the environment answered {said!r}, which has no tokens; return None to end an answer")
        return ids


class ChatFormat:
    """The format of a chat template.

    tokenizer: a transformers tokenizer.
    parse: `parse(ids, before, tools) -> message`; by default the turn's text is its content, and it calls no tools.
    chat_template: used in place of the tokenizer's own.
    options: variables of the template.

    The template must be prefix-preserving: what it writes for a turn must not change when more messages follow.
    """

    def __init__(
        self,
        tokenizer: Any,
        parse: Callable[[list[int], list[int], Sequence[Any]], Message] | None = None,
        *,
        chat_template: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._parse = parse
        self._chat_template = chat_template
        self._options = dict(options or {})

    def message(self, ids: list[int], before: list[int], tools: Sequence[Any]) -> Message:
        """See `Format`."""
        if self._parse is not None:
            return self._parse(ids, before, tools)
        return {"role": "assistant", "content": self._tokenizer.decode(ids, skip_special_tokens=True)}

    def observation(self, said: Said) -> list[int]:
        """See `Format`. Text is a message of the user.

        The template renders a conversation of two dummy messages with the observation after them, and what it renders
        without the observation is cut off. That ends with the token that ends a turn, which the model has sampled: a
        line break that the template writes after it belongs to the observation.

        Raises `ConfigError` for anything but text and messages, and where the template changes what came before.
        """
        messages: Any = [{"role": "user", "content": said}] if isinstance(said, str) else said
        if not isinstance(messages, list) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
            raise ConfigError(f"an environment answers with text, a list of messages, or None; got {said!r:.80}")
        turn: Message = {"role": "assistant", "content": ""}
        if messages[0]["role"] == "tool":  # some templates take the header of the result from the call
            function = {"name": tool_name(messages[0]), "arguments": {}}
            turn["tool_calls"] = [{"type": "function", "function": function}]
        dummy = [{"role": "user", "content": "dummy"}, turn]
        before, whole = self._render(dummy, False), self._render([*dummy, *messages], True)
        ends = [i for i, token in enumerate(before) if token == self._tokenizer.eos_token_id]
        if ends:
            before = before[: ends[-1] + 1]
        if whole[: len(before)] != before:
            raise ConfigError("the chat template writes a turn anew when more messages follow; use one that does not")
        return whole[len(before) :]

    def encode(self, text: str) -> list[int]:
        """See `Format`."""
        return encoder(self._tokenizer)(text)

    def _render(self, messages: list[Message], to_go_on: bool) -> list[int]:
        ids = self._tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=to_go_on,
            tokenize=True,
            chat_template=self._chat_template,
            return_dict=False,
            **self._options,
        )
        return list(ids)


def open_format(
    tokenizer: Any,
    decode: Callable[[list[int]], str],
    *,
    chat: bool,
    tools: bool,
    options: Mapping[str, Any] | None = None,
) -> tuple[Format, str | None]:
    """The format of a tokenizer, as TRL's trainer would set it up.

    decode: token ids -> text, special tokens skipped.
    chat: whether prompts go through the chat template.
    tools: whether the model calls tools.
    options: variables of the template.

    Returns the format and the chat template that prompts need, or None where that is the tokenizer's own. A template
    that writes turns anew when messages follow is replaced by TRL's for training, if it has one, as for Qwen3.

    Raises `ConfigError` for tools without a chat template that knows them.
    """
    if not chat:
        if tools:
            raise ConfigError("the environment has tools, which need a model with a chat template")
        return TextFormat(encoder(tokenizer), decode), None
    template: str | None = None
    if tools:
        from trl.chat_template_utils import (
            add_response_schema,
            get_training_chat_template,
            is_chat_template_prefix_preserving,
            supports_tool_calling,
        )

        if not supports_tool_calling(tokenizer):
            raise ConfigError("the chat template does not know tools; take a model whose template does, such as Qwen3")
        try:
            if not any(getattr(tokenizer, n, None) for n in ("response_template", "response_schema")):
                tokenizer = add_response_schema(tokenizer)
            if not is_chat_template_prefix_preserving(tokenizer):
                template = get_training_chat_template(tokenizer)
        except ValueError as error:
            raise ConfigError(f"the chat template cannot be used with tools: {error}") from error
    elif not _keeps_turns(ChatFormat(tokenizer, options=options)):
        from trl.chat_template_utils import get_training_chat_template

        with suppress(ValueError):  # TRL has none for it, so that the first observation is an error
            template = get_training_chat_template(tokenizer)
    return ChatFormat(tokenizer, parser(tokenizer), chat_template=template, options=options), template


def _keeps_turns(format: ChatFormat) -> bool:
    """Whether a turn is written in the same way when a message of the user follows. Qwen3's template drops thinking."""
    try:
        return bool(format.observation("…"))
    except ConfigError:
        return False


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """A function from text to its token ids, without special tokens."""
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])


def parser(tokenizer: Any) -> Callable[[list[int], list[int], Sequence[Any]], Message] | None:
    """TRL's parser of turns, where the tokenizer knows how its model writes them; else None."""
    if not any(getattr(tokenizer, name, None) is not None for name in ("response_template", "response_schema")):
        return None
    from trl.chat_template_utils import parse_response

    def parse(ids: list[int], before: list[int], tools: Sequence[Any]) -> Message:
        message: Message = parse_response(tokenizer, ids, prefix=before, tools=list(tools))
        return message

    return parse
