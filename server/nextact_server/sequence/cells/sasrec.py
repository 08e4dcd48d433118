"""Self-attention over the last events: SASRec (Kang and McAuley 2018), the reference that reads its history again.

Its state is the window of the last inputs, and each event costs an attention over all of them; the recurrent cells are
measured against it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextact_server.sequence.cells.cell import Cell, State
from nextact_server.sequence.cells.enter import enter_layer
from nextact_server.sequence.cells.packing import Packing
from nextact_server.sequence.config import SequenceConfig


class SASRec(Cell):
    """A causal transformer over the last `config.window` events, placed by their position in it.

    The state holds them as "window", newest last, with their number "count", and "out", the hidden vector given out
    last.
    """

    def __init__(self, config: SequenceConfig) -> None:
        """Make `config.layers` blocks of width `config.model_dim`."""
        super().__init__()
        self.output_dim = config.model_dim
        self._window = config.window
        self.enter = enter_layer(config)
        self.position = nn.Embedding(config.window, config.model_dim)
        self.blocks = nn.ModuleList(
            _Block(config.model_dim, config.attention_heads, config.feed_forward, config.dropout)
            for _ in range(config.layers)
        )
        self.leave_norm = nn.LayerNorm(config.model_dim)
        nn.init.normal_(self.position.weight, std=config.model_dim**-0.5)

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """See Cell."""
        return {"window": (self._window, self.output_dim), "count": (1,), "out": (self.output_dim,)}

    def hidden(self, state: State) -> Tensor:
        """See Cell."""
        return state["out"]

    def step(self, state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        count = state["count"][:, 0].long()
        window = torch.cat((state["window"][:, 1:], self.enter(x)[:, None]), dim=1)
        count = (count + 1).clamp(max=self._window)
        out = self._read(window, count)[:, -1]
        return out, {"window": window, "count": count[:, None].to(x.dtype), "out": out}

    def scan(self, x: Tensor, packing: Packing, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell; one pass where no user's events leave the window, else event by event."""
        if int(state["count"].max()) == 0 and len(packing.sizes) <= self._window:
            return self._scan_whole(x, packing)
        now = {name: tensor.clone() for name, tensor in state.items()}
        outs = []
        for offset, size in zip(packing.offsets, packing.sizes, strict=True):
            out, after = self.step({name: tensor[:size] for name, tensor in now.items()}, x[offset : offset + size])
            outs.append(out)
            now = {name: torch.cat((after[name], tensor[size:])) for name, tensor in now.items()}
        return torch.cat(outs), now

    def _scan_whole(self, x: Tensor, packing: Packing) -> tuple[Tensor, dict[str, Tensor]]:
        """Advance users without a past, whose events fit into the window: a single causal pass, aligned at the end."""
        entered = self.enter(x)
        sizes = torch.tensor(packing.sizes)
        step = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(x.device)
        rank = torch.arange(len(x), device=x.device) - torch.tensor(packing.offsets, device=x.device)[step]
        count = torch.bincount(rank, minlength=packing.sizes[0])
        place = self._window - count[rank] + step
        window = entered.new_zeros(packing.sizes[0], self._window, self.output_dim)
        window = window.index_put((rank, place), entered)
        out = self._read(window, count)[rank, place]
        return out, {"window": window, "count": count[:, None].to(x.dtype), "out": out[packing.ends]}

    def _read(self, window: Tensor, count: Tensor) -> Tensor:
        """Return what each place gives out, float32[users, window, model_dim]; empty places say nothing."""
        place = torch.arange(self._window, device=window.device)
        there = place >= self._window - count[:, None]
        position = (place - (self._window - count[:, None])).clamp(min=0)
        x = torch.where(there[..., None], window + self.position(position), 0.0)
        allowed = (place[:, None] >= place) & there[:, None, :]
        allowed = allowed | torch.eye(self._window, dtype=torch.bool, device=window.device)
        for block in self.blocks:
            x = block(x, allowed[:, None])
        out: Tensor = self.leave_norm(x).float()
        return out


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self.norm = nn.LayerNorm(dim)
        self.read = nn.Linear(dim, 3 * dim)
        self.write = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, feed_forward * dim)
        self.narrow = nn.Linear(feed_forward * dim, dim)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        users, places, dim = x.shape
        split = self.read(self.norm(x)).view(users, places, 3, self._heads, dim // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        told = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = x + self.dropout(self.write(told.transpose(1, 2).reshape(users, places, dim)))
        wide = self.dropout(F.relu(self.widen(self.feed_norm(x))))
        fed: Tensor = x + self.dropout(self.narrow(wide))
        return fed
