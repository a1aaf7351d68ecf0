"""A vLLM logits processor that makes vLLM report the log-probabilities IB-TPO and TRL's trainer need.

vLLM's own modes give the softmax at temperature 1 ("raw") or the one renormalised after top-p and top-k ("processed");
the trainer scores the full softmax at the sampling temperature. Nothing vLLM returns leads from one to the other: the
normaliser is missing. So the logits themselves are normalised where they have been divided by the temperature and not
yet been filtered, and vLLM's mode "processed_logits", which returns them as they are when the token is drawn, then
reports log softmax(logits / T). Subtracting a number from a whole row changes no draw.

Loaded by vLLM by name, in its own processes: LOGITS_PROCESSOR and LOGPROBS_MODE of `ibtpo.engines.vllm`.
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

try:  # the second interface of the same name, of vLLM's newer model runner
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerV2LogitsProcessor
except ImportError:
    RunnerV2LogitsProcessor = object


class FullSoftmax(LogitsProcessor, RunnerV2LogitsProcessor):
    """Logits to log-probabilities, for both of vLLM's model runners.

    The older one calls processors that keep the argmax after the temperature was applied: nothing else is needed.
    The newer one calls all of them before; there the row is multiplied by the temperature it will be divided by.
    """

    def __init__(self, vllm_config: Any, state: Any, is_pin_memory: bool = False) -> None:
        # state: a torch.device from the older runner; requests' state, with their number, from the newer one.
        self._temperatures: torch.Tensor | None = None  # (slots,) on the host
        self._on_device: torch.Tensor | None = None
        if not isinstance(state, torch.device):
            self._temperatures = torch.ones(state.max_num_reqs)
            self._on_device = self._temperatures.to(state.device)

    def is_argmax_invariant(self) -> bool:
        """True: a row's order stays. The older runner then applies it after the temperature, before top-k and top-p."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Older runner: nothing is kept about requests."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Newer runner: a request took slot `req_idx`; True, its logits are changed."""
        assert self._temperatures is not None
        # Greedy requests are not divided by anything.
        self._temperatures[req_idx] = sampling_params.temperature or 1.0
        return True

    def apply_staged_writes(self) -> None:
        """Newer runner: once a step, before `apply`."""
        assert self._temperatures is not None
        assert self._on_device is not None
        self._on_device.copy_(self._temperatures)

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        """(rows, vocabulary) logits in and out."""
        if context is None:
            return logits.log_softmax(-1)
        assert self._on_device is not None
        temperatures = self._on_device[context.expanded_idx_mapping][:, None]
        return (logits / temperatures).log_softmax(-1) * temperatures
