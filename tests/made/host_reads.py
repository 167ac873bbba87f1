"""Counts what makes the host wait for a GPU, wherever it runs: values that are read, sizes that depend on values, and
tensors that are made of values (`torch.tensor` copies them, and waits for the copy).
"""

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal}
"""`item`, `int`, `float` and `bool` of a tensor end in the first one."""
SIZED_BY_VALUES = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_consecutive, aten.bincount}
ON_TENSORS = ("tolist", "numpy", "cpu", "new_tensor")


class HostReads(TorchDispatchMode):
    """Inside the context, `found` grows by "operation in file" for everything that would wait; collectives are counted.

    Operations on tensors of whole numbers on the CPU are counted as all others: the test decides what is on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.collectives = 0
        self._kept: dict[tuple[Any, str], Any] = {}

    def of(self, part: str) -> list[str]:
        """What was found in files whose path has `part` in it."""
        return [one for one in self.found if part in one]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        self.collectives += func.namespace == "c10d"
        by_mask = packet is aten.index and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if by_mask or packet in READS | SIZED_BY_VALUES:
            self._note(str(packet))
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> "HostReads":
        for owner, names in ((Tensor, ON_TENSORS), (torch, ("tensor",))):
            for name in names:
                self._kept[owner, name] = getattr(owner, name)
                setattr(owner, name, self._counted(name, getattr(owner, name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for (owner, name), original in self._kept.items():
            setattr(owner, name, original)

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._note(name)
            return original(*args, **kwargs)

        return counted

    def _note(self, what: str) -> None:
        files = [frame.filename for frame in traceback.extract_stack()]
        outside = [file for file in files if "/torch/" not in file and not file.endswith("host_reads.py")]
        self.found.append(f"{what} in {outside[-1]}")
