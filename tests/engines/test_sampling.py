"""Drawing tokens against transformers' warpers: distributions, ties, extremes, streams of uniforms."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import TopKLogitsWarper, TopPLogitsWarper  # noqa: E402

from helpers.engine_models import FULL, GREEDY, PAPER, VOCAB, llama, many  # noqa: E402
from ibtpo.engines import Sampling  # noqa: E402
from ibtpo.engines.sampling import draw_tokens, uniform_stream  # noqa: E402
from ibtpo.engines.transformers import TransformersEngine  # noqa: E402


def hf_filtered(logits: Any, options: Sampling) -> Any:
    scores = logits.float() / options.temperature
    if options.top_k:
        scores = TopKLogitsWarper(options.top_k)(None, scores)
    if options.top_p < 1:
        scores = TopPLogitsWarper(options.top_p)(None, scores)
    return scores.softmax(-1)


@pytest.mark.parametrize(
    "options",
    [
        Sampling(0.7, 0.95, 20),
        Sampling(1.0, 0.5, 0),
        Sampling(1.5, 1.0, 5),
        Sampling(1.0, 1.0, 0),
        Sampling(0.4, 0.05, 0),
        Sampling(2.0, 0.9, 200),
    ],
    ids=str,
)
def test_the_drawn_distribution_is_that_of_transformers_warpers(options: Sampling) -> None:
    torch.manual_seed(1)
    logits = torch.randn(VOCAB) * 2
    expected = hf_filtered(logits[None], options)[0]
    # A grid of uniforms measures each token's interval: its share is its probability to 1 / 20000.
    n = 20_000
    drawn = draw_tokens(logits.expand(n, -1), [options] * n, [(i + 0.5) / n for i in range(n)])
    counts = torch.bincount(drawn[0].long(), minlength=VOCAB) / n
    assert (counts - expected).abs().max() < 2e-4
    assert counts[expected == 0].sum() == 0
    full = (logits / options.temperature).log_softmax(-1)
    assert torch.allclose(drawn[1], full[drawn[0].long()], atol=1e-5)
    assert torch.allclose(drawn[2], torch.full((n,), -(full.exp() * full).sum().item()), atol=1e-5)


@pytest.mark.parametrize("options", [Sampling(1, 1, 6), Sampling(1, 0.8, 6), Sampling(0.7, 0.95, 20)], ids=str)
def test_ties_at_the_kth_token_are_kept_as_transformers_keeps_them(options: Sampling) -> None:
    torch.manual_seed(2)
    logits = (torch.randn(50, VOCAB) * 2).round()  # many equal values, as bfloat16 gives
    expected = hf_filtered(logits, options)
    for row in range(50):
        n = 400
        drawn = draw_tokens(logits[row].expand(n, -1), [options] * n, [(i + 0.5) / n for i in range(n)])
        seen = torch.bincount(drawn[0].long(), minlength=VOCAB) > 0
        # Which of equally likely tokens top-p cuts is arbitrary in both: compare how many of each value are kept.
        values = Counter(logits[row][seen].tolist())
        kept = Counter(logits[row][(expected[row] > 0) & (expected[row] > 2 / n)].tolist())
        assert all(values[value] == count for value, count in kept.items())
        assert set(values) <= set(logits[row][expected[row] > 0].tolist())


def test_extreme_uniforms_never_draw_a_token_of_probability_zero() -> None:
    logits = torch.full((2, 8), -torch.inf)
    logits[:, 2] = 1.0
    logits[:, 5] = 0.0
    for options in (Sampling(1, 1, 0), Sampling(1, 0.99, 0), Sampling(1, 1, 3), Sampling(1, 0.9, 6)):
        ids = draw_tokens(logits, [options] * 2, [0.0, 1 - 2**-53])[0].tolist()
        assert set(ids) <= {2.0, 5.0}, options
    assert draw_tokens(logits, [Sampling(1, 1, 0)] * 2, [0.0, 1 - 2**-53])[2].isfinite().all()


def test_rows_of_one_batch_may_differ_in_sampling_options() -> None:
    torch.manual_seed(3)
    logits = torch.randn(6, VOCAB)
    options = [PAPER, GREEDY, FULL, Sampling(), Sampling(0.5, 0.5, 0), GREEDY]
    uniforms = [0.1, 0.9, 0.5, 0.99, 0.3, 0.01]
    together = draw_tokens(logits, options, uniforms)
    for row in range(6):
        alone = draw_tokens(logits[row : row + 1], [options[row]], [uniforms[row]])
        assert torch.allclose(together[:, row], alone[:, 0], atol=1e-6)
    assert together[0, 1] == logits[1].argmax()


def test_over_many_seeds_first_tokens_follow_the_filtered_softmax() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    prompt, options, n = [7, 8, 9], Sampling(1.5, 0.9, 8), 3000
    results = many(engine, [(prompt, options, seed, 1) for seed in range(n)])
    with torch.no_grad():
        expected = hf_filtered(model(torch.tensor([prompt])).logits[:, -1], options)[0].numpy()
    counts = np.bincount([result.token_ids[0] for result in results], minlength=VOCAB)
    assert counts[expected == 0].sum() == 0
    support = expected > 0
    chi_square = (((counts - n * expected) ** 2)[support] / (n * expected[support])).sum()
    freedom = support.sum() - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_a_uniform_stream_depends_on_its_seed_alone_and_longer_ones_start_alike() -> None:
    assert uniform_stream(4, 10) == uniform_stream(4, 200)[:10]
    assert uniform_stream(4, 10) != uniform_stream(5, 10)
    assert uniform_stream(2**100, 3) != uniform_stream(2**100 + 1, 3)
