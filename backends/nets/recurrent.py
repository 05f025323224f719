"""Recurrent layers and a scan written out by hand; shapes are (B, T, D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backends.nets.registry import net

STEPS = (7, 6)


class Recurrent(nn.Module):
    """A recurrent layer, and a classifier on its last step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x)
        out: Tensor = self.head(states[:, -1])
        return out


@net("lstm", STEPS, tags="recurrent")
def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(6, 9, num_layers=2, batch_first=True), 9)


@net("gru", STEPS, tags="recurrent")
def gru() -> nn.Module:
    return Recurrent(nn.GRU(6, 8, batch_first=True), 8)


@net("lstm-bidirectional", STEPS, tags="recurrent concat")
def lstm_bidirectional() -> nn.Module:
    return Recurrent(nn.LSTM(6, 7, batch_first=True, bidirectional=True), 14)


@net("rnn-relu", STEPS, tags="recurrent")
def rnn_relu() -> nn.Module:
    return Recurrent(nn.RNN(6, 9, nonlinearity="relu", batch_first=True), 9)


@net("rnn-tanh", STEPS, tags="recurrent")
def rnn_tanh() -> nn.Module:
    return Recurrent(nn.RNN(6, 9, num_layers=2, bias=False, batch_first=True), 9)


@net("lstm-projected", STEPS, tags="recurrent")
def lstm_projected() -> nn.Module:
    """States of 9 units, projected to 4 that are handed on."""
    return Recurrent(nn.LSTM(6, 9, num_layers=2, batch_first=True, proj_size=4), 4)


@net("gru-stacked-bidirectional", STEPS, tags="recurrent concat")
def gru_stacked_bidirectional() -> nn.Module:
    return Recurrent(nn.GRU(6, 7, num_layers=2, batch_first=True, bidirectional=True), 14)


@net("lstm-two-widths", STEPS, tags="recurrent")
class TwoWidths(nn.Module):
    """A convolution in front, and two layers of their own: every width shrinks on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 10, 3, padding=1)
        self.lower = nn.LSTM(10, 9)
        self.upper = nn.GRU(9, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.stem(x.transpose(1, 2)).relu().permute(2, 0, 1)
        _, last = self.upper(self.lower(steps)[0])
        out: Tensor = self.head(last[0])
        return out


@net("lstm-learned-state", STEPS, tags="recurrent")
class LearnedState(nn.Module):
    """Starts from states that are parameters: they leave with their units."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(1, 1, 9))
        self.memory = nn.Parameter(torch.randn(1, 1, 9))
        self.layer = nn.LSTM(6, 9, batch_first=True)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = tuple(state.expand(-1, x.shape[0], -1).contiguous() for state in (self.hidden, self.memory))
        out: Tensor = self.head(self.layer(x, first)[0][:, -1])
        return out


@net("gru-given-state", STEPS, (8,), tags="recurrent")
class GivenState(nn.Module):
    """The first state is an input: its units stay, the features in front of the layer may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 10)
        self.layer = nn.GRU(10, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        states, _ = self.layer(torch.tanh(self.stem(x)), state[None])
        out: Tensor = self.head(states[:, -1])
        return out


@net("lstm-packed", STEPS, tags="recurrent")
class Packed(nn.Module):
    """Sequences of different lengths, packed and padded again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 10)
        self.layer = nn.LSTM(10, 9, batch_first=True, bidirectional=True)
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(x.shape[0]).remainder(3) + x.shape[1] - 2
        packed = nn.utils.rnn.pack_padded_sequence(self.stem(x), lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        out: Tensor = self.head(states.mean(1))
        return out


@net("lstm-cell", STEPS, tags="recurrent")
class CellOwnState(nn.Module):
    """A cell that makes its own first state, called once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.unbind(1)
        state = self.cell(first)
        for step in rest:
            state = self.cell(step, state)
        out: Tensor = self.head(state[0])
        return out


@net("gru-cell", STEPS, tags="recurrent")
class CellLoop(nn.Module):
    """A cell called once a step by a Python loop, with a linear in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 10)
        self.cell = nn.GRUCell(10, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 8, dtype=x.dtype, device=x.device)
        for step in self.stem(x).unbind(1):
            state = self.cell(step, state)
        out: Tensor = self.head(state)
        return out


@net("diagonal-scan", STEPS, tags="recurrent ssm depthwise gate")
class DiagonalScan(nn.Module):
    """A gated causal depthwise convolution and a diagonal recurrence with 3 states a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 22, bias=False)
        self.conv = nn.Conv1d(11, 11, 3, padding=2, groups=11)
        self.decay = nn.Parameter(torch.rand(11, 3))
        self.write = nn.Parameter(torch.randn(11, 3) * 0.3)
        self.read = nn.Linear(11, 3)
        self.skip = nn.Parameter(torch.ones(11))
        self.out = nn.Linear(11, 6, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        value, gate = self.inner(x).chunk(2, -1)
        value = nn.functional.silu(self.conv(value.transpose(1, 2))[..., :length]).transpose(1, 2)
        weight = self.read(value)
        state = torch.zeros(x.shape[0], 11, 3, dtype=x.dtype, device=x.device)
        outputs = []
        for step in range(length):
            state = state * torch.sigmoid(self.decay) + value[:, step, :, None] * self.write
            outputs.append((state * weight[:, step, None, :]).sum(-1) + self.skip * value[:, step])
        mixed = torch.stack(outputs, 1) * nn.functional.silu(gate)
        result: Tensor = self.head((x + self.out(mixed)).mean(1))
        return result
