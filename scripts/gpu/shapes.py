"""Models with random weights in the shape of real ones, a tokenizer of made-up words, and random batches for them.

Nothing is read or downloaded, and the numbers that matter here, of layers, heads and words, are those of the models'
own config.json. There is a tiny shape for a CPU.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

PAD, END = 0, 1
STEP_EVERY = 16  # every so many words, one ends a step

SHAPES: dict[str, tuple[type, dict[str, Any]]] = {
    "qwen3-0.6b": (
        Qwen3Config,
        {
            "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
            "tie_word_embeddings": True,
        },
    ),
    "smollm2-135m": (
        LlamaConfig,
        {
            "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "tiny": (
        Qwen3Config,
        {
            "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip


def make_model(shape: str, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """A causal LM with random weights, the same in every call, in eval mode.

    The weights' spread is chosen so that the keys and values of a wrong token change log-probs visibly.

    shape: a name in `SHAPES`.
    device, dtype: where it is, and in what its weights are. They are drawn in float32 on the CPU, so that models in
        two dtypes are the same but for rounding.
    """
    kind, numbers = SHAPES[shape]
    spread = 1.6 / numbers["hidden_size"] ** 0.5
    config = kind(**numbers, initializer_range=spread, pad_token_id=PAD, bos_token_id=None, eos_token_id=END)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device, dtype).eval()


@cache
def make_tokenizer(words: int) -> Any:
    """A tokenizer of `words` made-up words, every 16th of which ends a step."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {"<pad>": PAD, "<eos>": END}
    for i in range(2, words):
        vocab[f"w{i}.\n\n" if i % STEP_EVERY == 0 else f"w{i} "] = i
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"w\d+( |\.\n\n)"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def random_prompts(count: int, length: int, words: int, seed: int = 0) -> list[list[int]]:
    """Prompts of random words that end no step.

    count: how many; no two are the same.
    length: tokens of each.
    words: the size of the vocabulary.
    """
    drawn = np.random.default_rng(seed).integers(2, words, (count, length))
    drawn[drawn % STEP_EVERY == 0] += 1
    return drawn.tolist()


@dataclass(frozen=True)
class Batch:
    """The rows of some trees, as TRL's loss takes them.

    ids, mask: (B, L) tokens and 1 for those that count; prompts are padded on the left, completions on the right.
    keep: T, tokens of a padded completion.
    weights: (B, T) what each token's log-prob is multiplied by in the loss, as an advantage would be.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    keep: int
    weights: torch.Tensor

    def loss(self, logps: torch.Tensor, entropies: torch.Tensor | None = None) -> torch.Tensor:
        """A loss like TRL's: the mean over rows of the mean over tokens, with a term that is not linear."""
        per_token = self.weights * logps + 0.1 * (torch.exp(0.1 * logps) - 0.1 * logps)
        if entropies is not None:
            per_token = per_token + 0.1 * self.weights * entropies
        mask = self.mask[:, -self.keep :]
        return ((per_token * mask).sum(1) / mask.sum(1)).mean()


def tree_batch(words: int, device: str, *, trees: int, rows: int, prompt: int, completion: int, seed: int = 0) -> Batch:
    """Trees of random tokens: a row branches off an earlier row of its tree at a random place.

    words: the size of the vocabulary.
    trees, rows: how many trees, and rows of each.
    prompt, completion: tokens of the longest prompt and of each answer; prompts are up to a quarter shorter.
    """
    rng = np.random.default_rng(seed)
    pairs: list[tuple[list[int], list[int]]] = []
    for _ in range(trees):
        start = rng.integers(2, words, prompt - rng.integers(prompt // 4 + 1)).tolist()
        answers: list[list[int]] = []
        for _row in range(rows):
            stem = answers[rng.integers(len(answers))] if len(answers) > 1 else []
            stem = stem[: rng.integers(completion)]
            answers.append(stem + rng.integers(2, words, completion - len(stem)).tolist())
        answers[0] = answers[0][: completion // 2]  # an answer may be shorter
        pairs += [(start, answer) for answer in answers]
    p = max(len(a) for a, _ in pairs)
    ids = [[PAD] * (p - len(a)) + a + b + [PAD] * (completion - len(b)) for a, b in pairs]
    mask = [[0] * (p - len(a)) + [1] * (len(a) + len(b)) + [0] * (completion - len(b)) for a, b in pairs]
    weights = torch.randn(len(pairs), completion, generator=torch.Generator().manual_seed(seed))
    return Batch(torch.tensor(ids, device=device), torch.tensor(mask, device=device), completion, weights.to(device))
