"""Environments: what answers the model between two turns of one answer. docs/turns.md tells the whole of it.

An answer is a conversation: the model samples a turn, the environment answers it with an *observation*, the model goes
on, until the environment has nothing to say. This file holds the protocol, and imports nothing heavy. An environment
is one of two kinds:

* `respond` reads a turn and returns what the model reads next. It suits games, dialogues and interpreters.
* TRL's kind has no `respond`: its public methods are tools, which the model calls by name. `tools.ToolEnvironment`
  turns it, and plain functions, into the first kind.

Every method may be plain or async. Plain ones run in a thread that belongs to the environment alone, so they may block
without holding up other answers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

# {"role": "assistant", "content": …, "tool_calls": […]} and the like, as chat templates and TRL have them.
Message = dict[str, Any]

# What `respond` returns: text, messages for the chat template, or None where the answer is over.
Said = str | list[Message] | None


class Environment(Protocol):
    """One conversation partner, for one answer at a time. `reset` and `respond` are needed, all else is optional:

    `fork(self) -> Environment`: another environment in the same state, independent of this one. With it a tree
        branches without doing past turns again. Neither of the two may see what happens to the other.
    `get_reward(self) -> float`: the environment's own reward of the answer that has ended, as in TRL.
    `close(self) -> None`: gives resources back. It is called once, whatever happened before, and may come in the
        middle of a call that hangs.
    `stop_tokens`: texts that end a turn, where the model's end-of-sequence token is not the only end: `("</search>",)`.
        Each must be one token of the model.
    `tool_schemas`: JSON schemas of functions, as OpenAI's API has them, that the model is shown in the prompt. A turn's
        `tool_calls` are then read by `respond`, which answers with messages of the role "tool". They are known after
        `reset`, and the same for each `reset` of a question.
    `restores`: "fork", "copy", "replay" or "root", how a branch gets its environment; by default the first of them
        that works (docs/turns.md). Set it to "replay" or "root" if some of the state is outside the object, such as a
        session on a server, which a copy would share.
    """

    def reset(self, **row: Any) -> str | None:
        """Begins an answer to one question, and forgets the one before.

        row: the columns of the question, `prompt` among them.

        Returns text that is put at the end of the prompt (in a chat: of its last message), or None. It must be the same
        for the same row, because all answers of a tree have one prompt.
        """
        ...

    def respond(self, message: Message) -> Said:
        """Answers the turn that the model has just ended.

        message: {"role": "assistant", "content": its text}, with "tool_calls" where the chat template knows how the
            model writes them.

        Returns text, which a plain prompt is continued with as it is, and a chat with a message of the user; or a list
        of messages, which the chat template renders; or None: the answer is over.

        An exception, and a call that takes too long, become an observation that says so: {"error": …} as text.
        """
        ...


# Makes an environment. It is called as often as environments are needed at once; each is reset again and again.
EnvironmentFactory = Callable[[], Any]
# One factory for all questions, or several, of which a question's column `environment` names one.
EnvironmentFactories = EnvironmentFactory | Mapping[str, EnvironmentFactory]

RESTORES = ("fork", "copy", "replay", "root")  # the values of `restores`
OWN_METHODS = ("reset", "respond", "fork", "close", "get_reward")  # these are never tools


def failure(message: Message, error: str) -> Said:
    """What the model reads in place of an answer that failed, in the form in which TRL reports a failed tool.

    message: the turn that was to be answered.
    error: what went wrong.
    """
    said = str({"error": error})
    calls = message.get("tool_calls")
    return [{"role": "tool", "name": tool_name(call), "content": said} for call in calls] if calls else said


def tool_name(call: Any) -> str:
    """The name of the tool that a tool call asks for; "unknown" where it has none."""
    function = call.get("function") if isinstance(call, Mapping) else None
    name = (function if isinstance(function, Mapping) else call).get("name") if isinstance(call, Mapping) else None
    return name if isinstance(name, str) else "unknown"
