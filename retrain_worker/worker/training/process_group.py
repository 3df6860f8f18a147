"""What the processes of a distributed training exchange: torch.distributed with gloo, on GPUs NCCL as well.

Every process has all weights and computes a share of each batch; gradients are summed explicitly after each backward
pass, so that the written-out CPU path and the plain module take the same way (decision 42). All decisions follow from
exchanged values, so that all processes take the same steps. With one process, every method returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from retrain_worker.errors import WorkerFailedError
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.worker.inference import logits_at
from retrain_worker.worker.ranks import Rank

#: that one process waits for another; a process that ends is noticed at once
_TIMEOUT = timedelta(minutes=10)

Value = TypeVar("Value")


class ProcessGroup:
    """The processes of a training. A method raises WorkerFailedError when another process has ended."""

    def __init__(self, rank: Rank | None = None) -> None:
        self.rank = rank or Rank()

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank.is_first

    def join(self, device: torch.device) -> None:
        """Wait for all processes; on GPUs, take the one of this process."""
        if not self.rank.is_distributed:
            return
        if device.type == "cuda":
            torch.cuda.set_device(self.rank.local_number)
        with _typed_errors(self.rank):
            distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections, which the other processes notice."""
        if self.rank.is_distributed and distributed.is_initialized():
            distributed.destroy_process_group()

    def share(self, count: int) -> slice:
        """The part of `count` items that this process takes: parts differ by one item at most."""
        number, size = self.rank.number, self.rank.size
        return slice(count * number // size, count * (number + 1) // size)

    def from_first(self, value_of: Callable[[], Value]) -> Value:
        """What `value_of` returns in the first process, in every process. The others wait for it."""
        if not self.rank.is_distributed:
            return value_of()
        values = [value_of() if self.is_first else None]
        with _typed_errors(self.rank):
            distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return cast(Value, values[0])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradient of each parameter by the sum over all processes, the same bits in each."""
        if not self.rank.is_distributed:
            return
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        if len(gradients) == 1:
            self._sum(gradients[0])
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._sum(flat)
        for gradient, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum_of(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes, in place."""
        if self.rank.is_distributed:
            self._sum(value)
        return value

    def unite(self, model: PatchTST) -> None:
        """The moments of batch norms, which each process has of its shares, become their mean.

        The weights become those of the first process: on different CPUs they may have come to differ in the last bit.
        """
        if not self.rank.is_distributed:
            return
        with torch.no_grad(), _typed_errors(self.rank):
            for parameter in model.parameters():
                distributed.broadcast(parameter.data, src=0)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d):
                    for moment in (module.running_mean, module.running_var):
                        distributed.all_reduce(cast(Tensor, moment))
                        cast(Tensor, moment).div_(self.rank.size)

    def logits_at(
        self, model: PatchTST, features_NF: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Logits (M,) of the windows that end at `positions` (M,); each process computes a share of them."""
        mine = self.share(len(positions))
        found = logits_at(model, features_NF, positions[mine])
        if not self.rank.is_distributed:
            return found
        logits = np.zeros(len(positions))
        logits[mine] = found
        self._sum(torch.from_numpy(logits))
        return logits

    def _sum(self, values: Tensor) -> None:
        with _typed_errors(self.rank):
            distributed.all_reduce(values)


#: a training of one process
ALONE = ProcessGroup()


@contextmanager
def _typed_errors(rank: Rank) -> Iterator[Any]:
    try:
        yield
    except RuntimeError as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WorkerFailedError(
            f"another process of the training has ended or does not answer ({cause})",
            where=f"rank {rank.number} of {rank.size}",
            remedy="see train.log of the run; the next attempt resumes after the last finished epoch",
        ) from error
