"""The index of an archive: to which chunks does a question's last token attend, by the mean and variance of their keys."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

GROWTH, LEAST_ROWS = 1.25, 64
NOBODY = -1


@dataclass(frozen=True)
class Table:
    """Mean and variance of keys [2, layers, KV heads, capacity, head dim], the chunk that owns each row, int64 [capacity],
    and the rows `used`."""

    rows: torch.Tensor
    owners: torch.Tensor
    used: int


class KeyIndex:
    """Mean and variance of the keys of archived chunks on one device. It may know more chunks than the stream's record does:
    whoever asks says which ones are meant, so that an interrupted change does no harm."""

    def __init__(self):
        self.table: Table | None = None

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return 0 if self.table is None else self.table.rows.nbytes + self.table.owners.nbytes

    def add(self, number: int, statistics: torch.Tensor, alive: Iterable[int]) -> None:
        """Take the `KeyStatistics` of chunk `number`, [vectors, 2, layers, KV heads, head dim], in the place of others that it
        may have.

        Rows of chunks that are not `alive` are given up when the table is full.
        """
        added = statistics.permute(1, 2, 3, 0, 4)
        new = added.shape[3]
        if self.table is not None:
            self.table.owners.masked_fill_(self.table.owners == number, NOBODY)
        if self.table is None or self.table.used + new > len(self.table.owners):
            self.table = self._longer(added, {*alive} - {number})
        table = self.table
        table.rows[:, :, :, table.used : table.used + new] = added
        table.owners[table.used : table.used + new] = number
        self.table = Table(table.rows, table.owners, table.used + new)

    def shares(self, queries: torch.Tensor, candidates: Iterable[int]) -> dict[int, float]:
        """How much of the attention each of the `candidates` gets, largest first; together 1.

        queries: of one token, without rotation, [layers, heads, head dim]. In every layer and head a softmax over all rows,
        summed within a chunk and averaged over layers and heads.

        The logit of a row stands for the mean of exp(q k) over the keys of its block, with q divided by the root of the head
        dim. If the numbers of a key were independent and normal, its logarithm would be q mean + q^2 variance / 2, which is
        what is taken (the cumulant expansion to its second term, without covariances). By the mean alone a block is not found
        in which a few keys stand out.
        """
        asked = torch.tensor([*candidates], dtype=torch.long)
        if not len(asked):
            return {}
        rows, used, device = self.table.rows, self.table.used, self.table.rows.device
        owners, asked = self.table.owners[:used], asked.to(device)
        grouped = (queries.to(device).unflatten(1, (rows.shape[2], -1)) * rows.shape[-1] ** -0.5).transpose(-1, -2)
        factors = torch.stack([grouped, grouped.square() / 2]).to(rows.dtype)
        logits = (rows[:, :, :, :used] @ factors).float().sum(0)  # [layers, KV heads, rows, heads of a KV head]
        logits.masked_fill_(~torch.isin(owners, asked)[:, None], float("-inf"))
        places = torch.zeros(int(owners.max()) + 2, device=device)
        summed = places.index_add_(0, owners + 1, logits.softmax(2).mean((0, 1, 3)))  # nobody's share comes first
        ordered = summed[asked + 1].sort(descending=True, stable=True)
        return dict(zip(asked[ordered.indices].tolist(), ordered.values.tolist(), strict=True))

    def _longer(self, added: torch.Tensor, alive: set[int]) -> Table:
        """A table with the rows of chunks that are `alive` and room for more."""
        kept, owners = added[:, :, :, :0], torch.empty(0, dtype=torch.long, device=added.device)
        if self.table is not None:
            used = self.table.owners[: self.table.used]
            mask = torch.isin(used, torch.tensor([*alive], dtype=torch.long, device=used.device))
            kept, owners = self.table.rows[:, :, :, : self.table.used][:, :, :, mask], used[mask]
        capacity = max(LEAST_ROWS, int((len(owners) + added.shape[3]) * GROWTH))
        rows = added.new_empty((*added.shape[:3], capacity, added.shape[4]))
        longer = torch.full((capacity,), NOBODY, device=added.device)
        rows[:, :, :, : len(owners)], longer[: len(owners)] = kept, owners
        return Table(rows, longer, len(owners))
