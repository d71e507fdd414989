"""Tensors spread as runs of their flattened elements, as torch.distributed.checkpoint reads and writes them.

ZeRO cuts parameters anywhere, also within a row, while checkpoints know boxes of whole tensors. A run of elements is
a few boxes, so each process writes what it holds, without gathering, into the files that FSDP2 would write, and reads
its own part of files that any back end wrote on any number of processes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


class Box(NamedTuple):
    """A box within a tensor.

    Attributes:
        offsets: its first index in each dimension.
        sizes: its extent in each dimension.
        start: where its elements begin in the flattened tensor; they follow each other.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int


def boxes_of_run(shape: tuple[int, ...], start: int, count: int) -> list[Box]:
    """Cut a run of flattened elements into boxes, in order.

    Args:
        shape: of the whole tensor.
        start: the run's first element in the flattened tensor.
        count: its elements.
    """
    if count == 0:
        return []
    if not shape:
        return [Box((), (), 0)]
    row = torch.Size(shape[1:]).numel()
    boxes: list[Box] = []
    end = start + count
    while start < end:
        first, within = divmod(start, row)
        whole_rows = (end - start) // row
        if within == 0 and whole_rows:
            boxes.append(Box((first, *(0 for _ in shape[1:])), (whole_rows, *shape[1:]), start))
            start += whole_rows * row
            continue
        part = min(end - start, row - within)
        for box in boxes_of_run(shape[1:], within, part):
            boxes.append(Box((first, *box.offsets), (1, *box.sizes), first * row + box.start))
        start += part
    return boxes


class FlatShard(Tensor):
    """This process's run of a tensor's elements; has the whole tensor's shape and no storage of its own.

    It can be saved and loaded by torch.distributed.checkpoint and nothing else. Loading writes into the run.
    """

    _run: Tensor
    _boxes: list[Box]
    _start: int

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], start: int, run: Tensor) -> FlatShard:
        """Wrap `run`, [n] contiguous, which begins at `start` in the flattened tensor of this shape."""
        shard: FlatShard = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=run.dtype, device=run.device)
        shard._run = run.detach()
        shard._start = start
        shard._boxes = boxes_of_run(tuple(shape), start, run.numel())
        return shard

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse to compute."""
        raise NotImplementedError(f"a FlatShard can be saved and loaded, not used in {func}")

    def __create_write_items__(self, fqn: str, _: object) -> list[WriteItem]:
        """Say what this process writes."""
        properties = TensorProperties(dtype=self.dtype)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, properties, torch.Size(self.shape)),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Say which boxes this process has."""
        return [ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)) for box in self._boxes]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """Return one of the boxes as a view into the run."""
        for box in self._boxes:
            if torch.Size(box.offsets) == index.offset:
                size = torch.Size(box.sizes)
                return self._run.narrow(0, box.start - self._start, size.numel()).view(size)
        raise ValueError(f"{index.fqn} has no box at {index.offset} here")
