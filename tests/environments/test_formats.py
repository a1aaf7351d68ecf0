"""Observations as tokens of a chat template: what the template puts after a turn, and which template that is."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import AutoTokenizer

from helpers.tool_model import CHATML, make_tool_model
from ibtpo.environments.formats import open_format
from ibtpo.errors import ConfigError

# It tells the last turn from those before it, and TRL does not know it.
CHANGES = CHATML.replace("{{ message.content }}", "{{ message.content }}{% if loop.last %}!{% endif %}")


def test_an_observation_is_what_the_template_puts_after_a_turn(tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(make_tool_model(tmp_path))
    after = "\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n"
    qwen3 = tokenizer.chat_template
    for template in (CHATML, qwen3):
        tokenizer.chat_template = template
        format, other = open_format(tokenizer, tokenizer.decode, chat=True, tools=False)
        assert tokenizer.decode(format.observation("higher")) == after
        assert (other is None) == (template == CHATML)  # Qwen3's drops thinking when a message of the user follows
    tokenizer.chat_template = CHANGES
    format, other = open_format(tokenizer, tokenizer.decode, chat=True, tools=False)
    assert other is None
    with pytest.raises(ConfigError, match="the chat template writes a turn anew when more messages follow"):
        format.observation("higher")
