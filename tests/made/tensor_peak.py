"""Peak bytes of all tensors of training steps on a CPU, counted at every operation.

The encoder, its head and the optimizers are the real ones. Left out: what kernels take inside one operation, the
allocator's rounding, Python and libraries, an engine's own buffers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.platform.settings.sections import OptimizerSection
from proteinlm.platform.training.optim import make_optimizer
from tests.made.small_models import random_packed


class TensorPeak(TorchDispatchMode):
    """Inside its context `peak` is the most bytes that storages held at a time, those of `before` included."""

    def __init__(self, before: list[torch.Tensor]) -> None:
        super().__init__()
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self._most = 0
        """Bytes of all in `_held`, of which some are gone by now."""
        self.peak = 0
        self._add(before)

    def _add(self, tensors: list[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                _, before = self._held.get(storage._cdata, (None, 0))
                self._held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._most += storage.nbytes() - before
        if self._most > self.peak:  # only then it matters which are gone
            self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
            self._most = sum(size for _, size in self._held.values())
            self.peak = max(self.peak, self._most)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._add(tree_leaves(result))
        return result


class _Model(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ProteinEncoder(config)
        self.head = LanguageModelHead(config, self.encoder.token_embedding)


def training_peak(
    config: ModelConfig, lengths: list[int], *, is_bf16: bool = False, optimizer: str = "adamw", scored: float = 0.15
) -> int:
    """Peak bytes of two training steps on proteins of `lengths` tokens, of which a share `scored` is scored."""
    torch.manual_seed(0)
    model, packed = _Model(config), random_packed(lengths)
    updates = make_optimizer(model, OptimizerSection.model_validate({"name": optimizer}))
    chosen = torch.arange(round(scored * packed.num_tokens))
    with TensorPeak([*model.parameters()]) as counted:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                logits = model.head(model.encoder(packed)[chosen])
                loss = F.cross_entropy(logits.float(), packed.tokens[chosen].long())
            loss.backward()  # type: ignore[no-untyped-call]
            updates.step()
            for parameter in model.parameters():
                parameter.grad = None
            del logits, loss
    return counted.peak
