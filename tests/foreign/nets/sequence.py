"""Recurrent networks, sound and text as people write them; every factory takes a size (0 or 1) and a seed."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    torch.manual_seed(seed)
    return make((8, 16)[size])


class Recurrent(nn.Module):
    def __init__(self, w, kind, both):
        super().__init__()
        self.rnn, self.head = kind(12, w, batch_first=True, bidirectional=both), nn.Linear(w * (1 + both), 4)

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.head(y[:, -1])


def gru(size=0, seed=0):
    return build(lambda w: Recurrent(w, nn.GRU, False), size, seed)


def gru_both(size=0, seed=0):
    return build(lambda w: Recurrent(w, nn.GRU, True), size, seed)


def lstm(size=0, seed=0):
    return build(lambda w: Recurrent(w, nn.LSTM, False), size, seed)


def lstm_both(size=0, seed=0):
    return build(lambda w: Recurrent(w, nn.LSTM, True), size, seed)


class Cell(nn.Module):
    """A loop over a cell, with its state going in and out."""

    def __init__(self, w):
        super().__init__()
        self.cell, self.head = nn.GRUCell(12, w), nn.Linear(w, 4)

    def forward(self, x, state):
        out = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            out.append(self.head(state))
        return torch.stack(out, 1), state


def cell_loop(size=0, seed=0):
    return build(Cell, size, seed)


class WaveNet(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.start = nn.Conv1d(1, w, 1)
        self.gates = nn.ModuleList([nn.Conv1d(w, 2 * w, 2, dilation=2**n) for n in range(4)])
        self.mix, self.end = nn.ModuleList([nn.Conv1d(w, w, 1) for _ in range(4)]), nn.Conv1d(w, 16, 1)

    def forward(self, x):
        x, skips = self.start(x), 0
        for n, (gate, mix) in enumerate(zip(self.gates, self.mix)):
            a, b = gate(F.pad(x, (2**n, 0))).chunk(2, 1)
            y = mix(torch.tanh(a) * torch.sigmoid(b))
            x, skips = x + y, skips + y
        return self.end(F.relu(skips))


def wavenet(size=0, seed=0):
    return build(WaveNet, size, seed)


class TCN(nn.Module):
    """Weight norm as its documentation has it."""

    def __init__(self, w, norm):
        super().__init__()
        sizes = [(12, w), (w, w), (w, w)]
        self.convs = nn.ModuleList(
            [norm(nn.Conv1d(i, o, 3, padding=2 * 2**n, dilation=2**n)) for n, (i, o) in enumerate(sizes)]
        )
        self.head = nn.Linear(w, 4)

    def forward(self, x):
        for n, conv in enumerate(self.convs):
            x = F.relu(conv(x)[:, :, : -2 * 2**n])
        return self.head(x[:, :, -1])


def tcn_weight_norm(size=0, seed=0):
    return build(lambda w: TCN(w, nn.utils.parametrizations.weight_norm), size, seed)


def tcn_old_weight_norm(size=0, seed=0):
    return build(lambda w: TCN(w, old_weight_norm), size, seed)


def old_weight_norm(module):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(module)


class Critic(nn.Module):
    def __init__(self, w):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.body = nn.Sequential(
            norm(nn.Conv2d(3, w, 4, 2, 1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(w, w, 4, 2, 1)), nn.LeakyReLU(0.2)
        )
        self.head = norm(nn.Linear(w, 1))

    def forward(self, x):
        return self.head(self.body(x).sum((2, 3)))


def spectral(size=0, seed=0):
    return build(Critic, size, seed)


class Mel(nn.Module):
    """A log mel spectrum by matrix products, as exported speech models have it, and a small classifier."""

    def __init__(self, w, floor):
        super().__init__()
        n, self.hop, self.floor = 64, 32, floor
        t, f = torch.arange(n, dtype=torch.float32), torch.arange(n // 2 + 1, dtype=torch.float32)
        angle, window = 2 * math.pi * f[:, None] * t / n, torch.hann_window(n)
        self.register_buffer("real", (angle.cos() * window).unsqueeze(1))
        self.register_buffer("imaginary", (angle.sin() * window).unsqueeze(1))
        self.register_buffer("bank", torch.rand(12, n // 2 + 1) / 16)
        self.body, self.head = nn.Conv1d(12, w, 3, padding=1), nn.Linear(w, 4)

    def forward(self, sound):
        x = sound.unsqueeze(1)
        power = F.conv1d(x, self.real, stride=self.hop).pow(2) + F.conv1d(x, self.imaginary, stride=self.hop).pow(2)
        mel = torch.log(torch.clamp(torch.matmul(self.bank, power), min=self.floor))
        return self.head(F.relu(self.body(mel / 4)).mean(-1))


def mel(size=0, seed=0):
    return build(lambda w: Mel(w, 1e-3), size, seed)


def mel_low_floor(size=0, seed=0):
    return build(lambda w: Mel(w, 1e-10), size, seed)


class Waves(nn.Module):
    """Convolutions on raw sound with a global norm, as separation networks have it."""

    def __init__(self, w):
        super().__init__()
        self.encode, self.mask = nn.Conv1d(1, w, 16, 8), nn.Conv1d(w, 2 * w, 1)
        self.norm, self.decode = nn.GroupNorm(1, w, eps=1e-5), nn.ConvTranspose1d(w, 1, 16, 8)

    def forward(self, sound):
        y = F.relu(self.encode(sound.unsqueeze(1)))
        masks = torch.sigmoid(self.mask(self.norm(y))).unflatten(1, (2, -1))
        return torch.stack([self.decode(y * masks[:, n]).squeeze(1) for n in range(2)], 1)


def separation(size=0, seed=0):
    return build(Waves, size, seed)


class Bag(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.table, self.head = nn.Embedding(50, w, padding_idx=0), nn.Linear(w, 3)

    def forward(self, ids):
        x, there = self.table(ids), (ids != 0).unsqueeze(-1)
        return self.head((x * there).sum(1) / there.sum(1).clamp(min=1))


def bag(size=0, seed=0):
    return build(Bag, size, seed)


class EmbeddingBag(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(50, w, mode="mean"), nn.Linear(w, 3)

    def forward(self, ids):
        return self.head(self.table(ids))


def embedding_bag(size=0, seed=0):
    return build(EmbeddingBag, size, seed)


class TextCNN(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.table = nn.Embedding(50, w)
        self.convs, self.head = nn.ModuleList([nn.Conv1d(w, w, k) for k in (2, 3, 4)]), nn.Linear(3 * w, 3)

    def forward(self, ids):
        x = self.table(ids).transpose(1, 2)
        return self.head(torch.cat([F.relu(conv(x)).max(dim=2)[0] for conv in self.convs], 1))


def text_cnn(size=0, seed=0):
    return build(TextCNN, size, seed)


class Highway(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.start, self.h, self.t, self.end = nn.Linear(20, w), nn.Linear(w, w), nn.Linear(w, w), nn.Linear(w, 5)

    def forward(self, x):
        x = self.start(x)
        gate = torch.sigmoid(self.t(x) - 1)
        return self.end(gate * F.relu(self.h(x)) + (1 - gate) * x)


def highway(size=0, seed=0):
    return build(Highway, size, seed)


class Gated(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(20, 2 * w), nn.Linear(w, 6), nn.BatchNorm1d(w)

    def forward(self, x):
        return F.softplus(self.b(self.norm(F.glu(self.a(x)))))


def gated(size=0, seed=0):
    return build(Gated, size, seed)


class CTC(nn.Module):
    """A convolution over a line of text, then a reader of its columns."""

    def __init__(self, w):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, w, 3, (2, 1), 1), nn.ReLU(), nn.Conv2d(w, w, 3, (2, 2), 1), nn.ReLU())
        self.rnn, self.head = nn.LSTM(2 * w, w, bidirectional=True, batch_first=True), nn.Linear(2 * w, 11)

    def forward(self, image):
        y = self.body(image).permute(0, 3, 1, 2).flatten(2)
        return F.log_softmax(self.head(self.rnn(y)[0]), dim=2)


def line_reader(size=0, seed=0):
    return build(CTC, size, seed)
