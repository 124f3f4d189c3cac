"""Networks that no file can be right for, and some that FP16 cannot hold; every factory takes a size and a seed."""

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    torch.manual_seed(seed)
    return make((16, 32)[size])


class Counter(nn.Module):
    """Keeps a state from call to call."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)
        self.register_buffer("mean", torch.zeros(w))

    def forward(self, x):
        y = self.a(x)
        self.mean += 0.1 * y.mean(0).detach()
        return y - self.mean


def stateful(size=0, seed=0):
    return build(Counter, size, seed)


class Noisy(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        return self.a(x) + 0.1 * torch.randn(x.shape[0], 1)


def random(size=0, seed=0):
    return build(Noisy, size, seed)


class Dropped(nn.Module):
    """Dropout that evaluation does not switch off."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        return F.dropout(self.a(x), 0.5)


def dropout(size=0, seed=0):
    return build(Dropped, size, seed)


class Loud(nn.Module):
    """Takes another way for loud inputs."""

    def __init__(self, w):
        super().__init__()
        self.a, self.b = nn.Linear(12, w), nn.Linear(12, w)

    def forward(self, x):
        if x.abs().max() > 6:
            return self.b(x)
        return self.a(x)


def branch(size=0, seed=0):
    return build(Loud, size, seed)


class Count(nn.Module):
    """A number taken out of the data."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        scale = float(x.abs().max())
        return self.a(x / max(scale, 1e-3))


def item(size=0, seed=0):
    return build(Count, size, seed)


class BatchStatistics(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, w, 3, 2, 1), nn.BatchNorm2d(w, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.a(x)).mean((2, 3))


def batch_statistics(size=0, seed=0):
    return build(BatchStatistics, size, seed)


class Overflowing(nn.Module):
    """Squares that overflow in FP16."""

    def __init__(self, w):
        super().__init__()
        self.a, self.b = nn.Linear(12, w), nn.Linear(w, 4)

    def forward(self, x):
        y = 300 * self.a(x)
        return self.b(torch.log1p(y.pow(2)))


def overflow(size=0, seed=0):
    return build(Overflowing, size, seed)


class Cancelling(nn.Module):
    """The small difference of large numbers, which FP16 loses."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        y = self.a(x)
        return (y + 1000) - 1000


def cancelling(size=0, seed=0):
    return build(Cancelling, size, seed)


class Nonzero(nn.Module):
    """As many rows as there are positive inputs."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        y = self.a(x)
        return y[y > 0]


def data_dependent_size(size=0, seed=0):
    return build(Nonzero, size, seed)


class Together(nn.Module):
    """An answer that depends on the other cases of the batch."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        y = self.a(x)
        return y - y.mean(0, keepdim=True)


def batch_mean(size=0, seed=0):
    return build(Together, size, seed)
