"""A vLLM logits processor that makes vLLM report the log-probabilities IB-TPO and TRL's trainer need.

The trainer scores tokens under the full softmax at the sampling temperature. vLLM's own modes report the softmax at
temperature 1 ("raw") or the one renormalised after top-p and top-k ("processed"). Neither can be converted, because
vLLM does not return the normaliser. So this processor normalises the logits themselves, after they were divided by the
temperature T and before they are filtered. vLLM's mode "processed_logits" returns the logits as they are when the token
is drawn, and therefore log softmax(logits / T). The draws stay the same: from a whole row one number is subtracted.

vLLM loads this module by name, in its own processes: see LOGITS_PROCESSOR and LOGPROBS_MODE of `ibtpo.engines.vllm`.
docs/engines.md, "Which log-probabilities", says what happens without it.
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

try:  # vLLM's newer model runner has another interface of the same name
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerV2LogitsProcessor
except ImportError:
    RunnerV2LogitsProcessor = object


class FullSoftmax(LogitsProcessor, RunnerV2LogitsProcessor):
    """Turns logits into log-probabilities, for both of vLLM's model runners.

    The older runner calls processors that keep the argmax after it has divided by the temperature, so normalising is
    all there is to do. The newer runner calls all processors before; there the normalised row is multiplied by the
    temperature, by which vLLM then divides it.
    """

    def __init__(self, vllm_config: Any, state: Any, is_pin_memory: bool = False) -> None:
        # state: the older runner passes a torch.device, the newer one what it knows of its requests.
        self._temperatures: torch.Tensor | None = None  # (slots,) one a request, in the host's memory
        self._on_device: torch.Tensor | None = None
        if not isinstance(state, torch.device):
            self._temperatures = torch.ones(state.max_num_reqs)
            self._on_device = self._temperatures.to(state.device)

    def is_argmax_invariant(self) -> bool:
        """True, since a row's order stays: the older runner then calls `apply` between temperature and filters."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Does nothing: with the older runner, `apply` needs to know nothing of the requests."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Notes the temperature of a new request; only the newer runner calls this.

        req_idx: the slot that the request took.
        sampling_params: vLLM's sampling parameters of the request.

        Returns True, which says that the request's logits are changed.
        """
        assert self._temperatures is not None
        # vLLM does not divide the logits of a greedy request, whose temperature is 0.
        self._temperatures[req_idx] = sampling_params.temperature or 1.0
        return True

    def apply_staged_writes(self) -> None:
        """Copies the temperatures to the device; the newer runner calls this once a step, before `apply`."""
        assert self._temperatures is not None
        assert self._on_device is not None
        self._on_device.copy_(self._temperatures)

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        """Normalises the logits of one step.

        logits: (rows, vocabulary).
        context: given by the newer runner only; says which request each row belongs to.

        Returns (rows, vocabulary).
        """
        if context is None:
            return logits.log_softmax(-1)
        assert self._on_device is not None
        temperatures = self._on_device[context.expanded_idx_mapping][:, None]
        return (logits / temperatures).log_softmax(-1) * temperatures
