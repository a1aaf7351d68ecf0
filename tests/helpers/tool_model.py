"""A tiny random model whose tokenizer spells out a chat template with tools, and a script for what it samples."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ibtpo.engines import Completion, Engine, Sampling

SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>")
EOS = 2

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tool_model(folder: Path, *, context: int = 4096, chat_template: str | None = None) -> Path:
    """Saves a one-layer Llama and a tokenizer of single characters, and returns the folder.

    chat_template: by default Qwen3's.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl.chat_template_utils import qwen3_chat_template

    characters = ["\n", *map(chr, range(32, 127))]
    vocab = {t: i for i, t in enumerate([*SPECIAL, *characters])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = chat_template or qwen3_chat_template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=context, pad_token_id=0, bos_token_id=None, eos_token_id=EOS,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def call(name: str, **arguments: Any) -> str:
    """A tool call as Qwen3 writes it."""
    import json

    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


class Script:
    """What is sampled: `script(text, number) -> text` of the next turn, whose end is the end token, or is cut off.

    text: all text so far, special tokens left out.
    number: how many turns were sampled after this very text.
    """

    def __init__(self, tokenizer: Any, script: Callable[[str, int], str]) -> None:
        self.tokenizer, self.script = tokenizer, script
        self.seen: Counter[str] = Counter()

    def sample(self, ids: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens after the tokens `ids`."""
        text = self.tokenizer.decode(ids)
        self.seen[text] += 1
        said = self.script(text, self.seen[text] - 1)
        return (self.tokenizer(said, add_special_tokens=False)["input_ids"] + [EOS])[:most]


class ScriptEngine(Engine):
    """An engine that samples from a `Script`."""

    script: Script

    def __init__(self, script: Script) -> None:
        self.script = script

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`."""
        ids = self.script.sample(prompt_ids, max_new_tokens)
        logs = [-0.5 - 0.1 * (t % 7) for t in ids]
        return Completion(ids, logs, [0.5] * len(ids), "eos" if ids[-1] == EOS else "length")
