"""Packs training samples into micro-batches without padding, computing shared prompts once.

A bundle holds a prompt once, followed by several of its completions, each of which sees the prompt and itself
but not its siblings. A micro-batch is a bin of bundles. Packing depends only on the order and lengths of the samples,
so a resumed run packs as the unbroken one did.

    samples -> pieces (few completions of a prompt) -> bins (best fit, longest first) -> rows (one bin per process)

Every forward and backward pass is a collective, so all processes work on their bin of a row at the same time: a row
holds bins that cost alike.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from r1ray.types import TrainingSample

# Completions of one prompt stay together up to this share of a bin: more shares more prompts, less fills better.
PIECE_SHARE = 1 / 8
# A bin this full goes to work while more groups may come, once samples for so many rows wait: for one process enough to
# fill bins well, for several also enough to find bins that cost alike.
FULL = 0.95
ROWS_ALONE, ROWS_TOGETHER = 2, 4
# Where completions are of a length that fills no bin so well, the fullest go once so many times as much waits.
PATIENCE = 2


@dataclass(slots=True)
class Bundle:
    """Samples that share one prompt, laid out as prompt, completion, completion, ..."""

    samples: list[TrainingSample] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the bundle: the prompt counts once."""
        return len(self.samples[0].prompt_ids) + sum(len(s.completion_ids) for s in self.samples)

    @property
    def pairs(self) -> int:
        """Pairs of tokens of which one sees the other, which is what attention costs."""
        prompt = len(self.samples[0].prompt_ids)
        lengths = [len(s.completion_ids) for s in self.samples]
        return prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)


Bin = list[Bundle]


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of a forward pass: `per_token` for matrix products, `per_pair` for attention."""

    per_token: float = 1.0
    per_pair: float = 0.0

    def of(self, bundles: Iterable[Bundle]) -> float:
        """Return what these bundles cost."""
        return sum(self.per_token * b.tokens + self.per_pair * b.pairs for b in bundles)


class Packer:
    """Turns a stream of samples into rows of bins for `num_ranks` processes.

    `add` gives out rows as soon as they are full and always keeps something back, so that `finish`, which gives out
    the rest, ends every step that had samples with at least one row.
    """

    def __init__(self, *, micro_batch_tokens: int, num_ranks: int, cost: Cost, together: bool = False) -> None:
        """Take the limit of a bin, which only a single longer sample exceeds.

        Args:
            micro_batch_tokens: tokens of a bin.
            num_ranks: processes that get a bin each of every row.
            cost: by which bins are dealt out.
            together: samples of one prompt always go into one bin, as pairs must.
        """
        self._together = together
        self._limit = micro_batch_tokens
        self._num_ranks = num_ranks
        self._cost = cost
        self._waiting: list[TrainingSample] = []

    def add(self, samples: Sequence[TrainingSample]) -> list[list[Bin]]:
        """Take samples, those of a prompt together; return the rows that are full: [rows][num_ranks] bins."""
        self._waiting += samples
        tokens = sum(len(s.completion_ids) for s in self._waiting)
        enough = (ROWS_ALONE if self._num_ranks == 1 else ROWS_TOGETHER) * self._num_ranks * self._limit
        if tokens < enough:
            return []
        bins = sorted(pack(self._waiting, limit=self._limit, together=self._together), key=lambda b: -_tokens(b))
        number = sum(_tokens(b) >= FULL * self._limit for b in bins)
        if tokens >= PATIENCE * enough:
            number = max(number, len(bins) - enough // self._limit)
        going = bins[: min(number, len(bins) - 1) // self._num_ranks * self._num_ranks]
        gone = {id(s) for members in going for bundle in members for s in bundle.samples}
        self._waiting = [s for s in self._waiting if id(s) not in gone]
        return self._rows(going)

    def finish(self) -> list[list[Bin]]:
        """Return the rows of everything left; a rank may get an empty bin where samples are too few."""
        bins = pack(self._waiting, limit=self._limit, together=self._together)
        if self._num_ranks > 1:
            lacking = -len(bins) % self._num_ranks
            even = spread(
                self._waiting,
                limit=self._limit,
                num_bins=len(bins) + lacking,
                cost=self._cost,
                together=self._together,
            )
            bins = even if even is not None else [*bins, *([] for _ in range(lacking))]
        self._waiting = []
        return self._rows(bins)

    def _rows(self, bins: Sequence[Bin]) -> list[list[Bin]]:
        """Deal bins out by cost, turning round after each row, so that rows are even and so are the sums."""
        ordered = sorted(bins, key=lambda b: -self._cost.of(b))
        rows = [ordered[i : i + self._num_ranks] for i in range(0, len(ordered), self._num_ranks)]
        return [row[::-1] if number % 2 else row for number, row in enumerate(rows)]


def pack(samples: Sequence[TrainingSample], *, limit: int, together: bool = False) -> list[Bin]:
    """Put samples into as few bins as best fit, longest first, finds.

    Args:
        samples: those that share a prompt follow each other.
        limit: tokens of a bin; a longer sample goes alone.
        together: samples of one prompt go into one bin.

    Returns:
        Bins whose bundles are in the order of `samples`.
    """
    bins = _Bins(limit)
    rooms: list[tuple[int, int]] = []  # (room, bin), ascending
    for piece in _pieces(samples, limit=limit, together=together):
        index = bins.beside(piece)
        if index is None:
            position = bisect_left(rooms, (piece.tokens, -1))
            index = rooms[position][1] if position < len(rooms) else bins.open(piece.tokens)
        if bins.members[index]:
            rooms.pop(bisect_left(rooms, (bins.rooms[index], index)))
        bins.put(index, piece)
        insort(rooms, (bins.rooms[index], index))
    return bins.in_order(samples)


def spread(
    samples: Sequence[TrainingSample], *, limit: int, num_bins: int, cost: Cost, together: bool = False
) -> list[Bin] | None:
    """Put samples into just `num_bins` bins of like cost, longest first into the cheapest; None if they do not fit."""
    bins = _Bins(limit)
    costs = [0.0] * num_bins
    for _ in range(num_bins):
        bins.open(0)
    for piece in _pieces(samples, limit=limit, together=together):
        roomy = [i for i in range(num_bins) if bins.needed(i, piece) <= bins.rooms[i]]
        if not roomy:
            return None
        index = min(roomy, key=lambda i: costs[i])
        bins.put(index, piece)
        costs[index] = cost.of(bins.members[index].values())
    return bins.in_order(samples)


class _Bins:
    """Bins under way: bundles by prompt, and the tokens that still fit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.members: list[dict[str, Bundle]] = []
        self.rooms: list[int] = []
        self._where: dict[str, list[int]] = {}

    def open(self, tokens: int) -> int:
        """Add a bin for at least `tokens` and return its index."""
        self.members.append({})
        self.rooms.append(max(self.limit, tokens))
        return len(self.members) - 1

    def needed(self, index: int, piece: Bundle) -> int:
        """Return the tokens that a piece adds to a bin."""
        shared = len(piece.samples[0].prompt_ids) if _key(piece) in self.members[index] else 0
        return piece.tokens - shared

    def beside(self, piece: Bundle) -> int | None:
        """Return the fullest bin that holds the piece's prompt and has room for its completions."""
        fitting = [i for i in self._where.get(_key(piece), ()) if self.rooms[i] >= self.needed(i, piece)]
        return min(fitting, key=lambda i: self.rooms[i]) if fitting else None

    def put(self, index: int, piece: Bundle) -> None:
        """Put a piece in, beside its prompt where that is there."""
        self.rooms[index] -= self.needed(index, piece)
        key = _key(piece)
        if key in self.members[index]:
            self.members[index][key].samples += piece.samples
        else:
            self.members[index][key] = piece
            self._where.setdefault(key, []).append(index)

    def in_order(self, samples: Sequence[TrainingSample]) -> list[Bin]:
        """Return the bins, everything in the order of `samples`."""
        order = {id(s): i for i, s in enumerate(samples)}
        for members in self.members:
            for bundle in members.values():
                bundle.samples.sort(key=lambda s: order[id(s)])
        return [sorted(members.values(), key=lambda b: order[id(b.samples[0])]) for members in self.members]


def _key(piece: Bundle) -> str:
    """Name the prompt of a piece; samples without a key share with nobody."""
    return piece.samples[0].prompt_key or f"#{id(piece.samples[0])}"


def _pieces(samples: Sequence[TrainingSample], *, limit: int, together: bool) -> list[Bundle]:
    """Bundle samples that follow each other with the same prompt, within their share of a bin; longest first."""
    pieces: list[Bundle] = []
    room, key = 0.0, ""
    for sample in samples:
        length = len(sample.completion_ids)
        if pieces and sample.prompt_key == key != "" and (together or length <= room):
            pieces[-1].samples.append(sample)
        else:
            pieces.append(Bundle([sample]))
            room = limit * PIECE_SHARE - len(sample.prompt_ids)
            key = sample.prompt_key
        room -= length
    return sorted(pieces, key=lambda p: -p.tokens)


def _tokens(bundles: Iterable[Bundle]) -> int:
    return sum(b.tokens for b in bundles)
