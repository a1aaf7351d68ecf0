"""oneDNN's packed products in the engine: the same numbers, never stale, nothing left behind in the model."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn.functional import linear  # noqa: E402
from transformers import GemmaConfig  # noqa: E402

from helpers.engine_models import FAMILIES, PAPER, SHAPE, assert_an_optimizer_step_is_noticed, build, one  # noqa: E402
from ibtpo.engines.packed_linear import PackedLinears, can_pack  # noqa: E402
from ibtpo.engines.transformers import TransformersEngine  # noqa: E402

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of PyTorch has no oneDNN operators")


def large() -> Any:
    """A model whose feed-forward layers are above the threshold."""
    return build(GemmaConfig(**{**SHAPE, "hidden_size": 128, "intermediate_size": 1024}))


def packed(model: Any) -> PackedLinears:
    return PackedLinears(list(model.modules()))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (33, 1), (2, 7)])
def test_products_are_those_of_the_layer(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 300, bias=bias)
    x = torch.randn(*shape, 512)
    expected = layer(x)
    with torch.no_grad(), packed(layer).installed():
        assert "forward" in vars(layer)
        torch.testing.assert_close(layer(x), expected.detach(), atol=1e-5, rtol=0)
    assert "forward" not in vars(layer)
    assert layer(x).requires_grad


def test_only_large_float32_layers_are_packed() -> None:
    class Own(torch.nn.Linear):
        pass

    layers = torch.nn.ModuleList(
        [torch.nn.Linear(512, 256), torch.nn.Linear(512, 255), Own(512, 512), torch.nn.Linear(512, 512).bfloat16()]
    )
    with packed(layers).installed():
        assert ["forward" in vars(layer) for layer in layers] == [True, False, False, False]


def test_under_autocast_a_layer_computes_as_autocast_says() -> None:
    layer = torch.nn.Linear(512, 512)
    x = torch.randn(3, 512)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with packed(layer).installed():
            found = layer(x)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, expected)


def test_cleared_weights_are_packed_anew() -> None:
    layer = torch.nn.Linear(512, 512)
    x = torch.randn(3, 512)
    linears = packed(layer)
    with torch.no_grad():
        with linears.installed():
            layer(x)
        layer.weight.mul_(-2)
        linears.clear()
        with linears.installed():
            torch.testing.assert_close(layer(x), linear(x, layer.weight, layer.bias), atol=1e-5, rtol=0)


def test_beyond_the_limit_weights_are_used_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibtpo.engines.packed_linear.MOST_BYTES", 512 * 512 * 4)
    layers = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Linear(512, 512))
    x = torch.randn(3, 512)
    expected = layers(x).detach()
    with torch.no_grad(), packed(layers).installed():
        torch.testing.assert_close(layers(x), expected, atol=1e-5, rtol=0)
        contents = [[cell.cell_contents for cell in layer.forward.__closure__] for layer in layers]
    weights = [x for cells in contents for x in cells if isinstance(x, torch.Tensor) and x.dim() == 2]
    assert [weight.layout for weight in weights] == [torch._mkldnn, torch.strided]
    assert weights[1].data_ptr() == layers[1].weight.data_ptr()  # and not a copy


def test_an_engine_step_uses_them_and_an_optimizer_step_is_noticed() -> None:
    model = large()
    engine = TransformersEngine(model, eos_token_ids=[])
    assert_an_optimizer_step_is_noticed(model, engine)
    assert len(engine._linears._forwards) == 5 * model.config.num_hidden_layers  # the wide attention's, too
    engine.reset_cache()
    assert not engine._linears._forwards


def test_small_models_are_left_alone() -> None:
    engine = TransformersEngine(build(FAMILIES["gemma"]), eos_token_ids=[])
    one(engine, [5, 6, 7], PAPER)
    assert not engine._linears._forwards
