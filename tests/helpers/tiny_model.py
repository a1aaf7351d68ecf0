"""A tiny random model with a tokenizer for ten letters, made on the spot, for tests that load a model from a folder."""

from pathlib import Path


def make_tiny_model(folder: Path, *, eos: bool = True) -> Path:
    """Saves a two-layer Llama and its tokenizer, and returns the folder.

    Its tokens are the letters a to j, a space, and a full stop with a blank line, which ends a step.

    folder: where to save them.
    eos: whether the tokenizer has an end token; without one answers end only at the length limit.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", *"abcdefghij", ".\n\n", " "])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\.\n\n|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", **({"eos_token": "<eos>"} if eos else {})}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1 if eos else None,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
