"""Fields, graphs, modulation and other small networks; every factory takes a size (0 or 1) and a seed."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    torch.manual_seed(seed)
    return make((16, 32)[size])


class NeRF(nn.Module):
    """Positions as sines of growing frequency, then density and colour."""

    def __init__(self, w, bands=6):
        super().__init__()
        self.register_buffer("bands", 2.0 ** torch.arange(bands))
        self.body = nn.Sequential(nn.Linear(3 + 6 * bands, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU())
        self.density, self.colour = (
            nn.Linear(w, 1),
            nn.Sequential(nn.Linear(w + 3, w), nn.ReLU(), nn.Linear(w, 3), nn.Sigmoid()),
        )

    def forward(self, points, directions):
        x = (points.unsqueeze(-1) * self.bands).flatten(-2)
        y = self.body(torch.cat([points, x.sin(), x.cos()], -1))
        return {"density": F.softplus(self.density(y)), "rgb": self.colour(torch.cat([y, directions], -1))}


def nerf(size=0, seed=0):
    return build(NeRF, size, seed)


class Siren(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, w), nn.Linear(w, w), nn.Linear(w, 3)])
        for n, layer in enumerate(self.layers):
            bound = 1 / layer.in_features if n == 0 else math.sqrt(6 / layer.in_features) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


def siren(size=0, seed=0):
    return build(Siren, size, seed)


class FiLM(nn.Module):
    """An image network that a vector modulates."""

    def __init__(self, w):
        super().__init__()
        self.a, self.b, self.norm = (
            nn.Conv2d(3, w, 3, 2, 1),
            nn.Conv2d(w, w, 3, padding=1),
            nn.BatchNorm2d(w, affine=False),
        )
        self.film, self.head = nn.Linear(6, 2 * w), nn.Linear(w, 5)

    def forward(self, image, condition):
        scale, shift = self.film(condition).chunk(2, dim=-1)
        y = self.norm(self.b(F.relu(self.a(image))))
        y = F.relu(y * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
        return self.head(y.mean((-2, -1)))


def film(size=0, seed=0):
    return build(FiLM, size, seed)


class Hyper(nn.Module):
    """A vector makes the weights of a layer for each case."""

    def __init__(self, w):
        super().__init__()
        self.make, self.start, self.w = nn.Linear(6, w * w), nn.Linear(10, w), w

    def forward(self, x, condition):
        weights = self.make(condition).view(-1, self.w, self.w) / self.w**0.5
        return torch.bmm(weights, torch.tanh(self.start(x)).unsqueeze(-1)).squeeze(-1)


def hypernetwork(size=0, seed=0):
    return build(Hyper, size, seed)


class Graph(nn.Module):
    """Convolutions over a dense adjacency that is an input."""

    def __init__(self, w):
        super().__init__()
        self.a, self.b = nn.Linear(6, w), nn.Linear(w, 4)

    def forward(self, nodes, adjacency):
        adjacency = adjacency.sigmoid() + torch.eye(adjacency.shape[-1], dtype=nodes.dtype, device=nodes.device)
        degree = adjacency.sum(-1).rsqrt()
        adjacency = degree.unsqueeze(-1) * adjacency * degree.unsqueeze(-2)
        return self.b(adjacency @ F.relu(self.a(adjacency @ nodes)))


def graph(size=0, seed=0):
    return build(Graph, size, seed)


class GraphAttention(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w, self.left, self.right = nn.Linear(6, w, bias=False), nn.Linear(w, 1), nn.Linear(w, 1)

    def forward(self, nodes, edges):
        h = self.w(nodes)
        scores = F.leaky_relu(self.left(h) + self.right(h).transpose(1, 2), 0.2)
        scores = torch.where(edges > 0, scores, torch.full_like(scores, -9e15))
        return F.elu(scores.softmax(-1) @ h)


def graph_attention(size=0, seed=0):
    return build(GraphAttention, size, seed)


class PointNet(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, w, 1), nn.BatchNorm1d(w), nn.ReLU(), nn.Conv1d(w, 2 * w, 1))
        self.head = nn.Linear(2 * w, 6)

    def forward(self, cloud):
        return self.head(torch.max(self.body(cloud), 2)[0])


def pointnet(size=0, seed=0):
    return build(PointNet, size, seed)


class Capsule(nn.Module):
    """Two turns of routing by agreement."""

    def __init__(self, w):
        super().__init__()
        self.start, self.weight = nn.Conv2d(3, w, 8, 8), nn.Parameter(0.3 * torch.randn(1, w // 4, 3, 4, 4))

    def squash(self, x):
        square = x.pow(2).sum(-1, keepdim=True)
        return square / (1 + square) * x / torch.sqrt(square + 1e-8)

    def forward(self, x):
        y = self.start(x).mean((2, 3)).view(x.shape[0], -1, 1, 4, 1)
        votes = (self.weight @ self.squash(y.squeeze(-1)).unsqueeze(-1)).squeeze(-1)
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(2):
            found = self.squash((logits.softmax(2).unsqueeze(-1) * votes).sum(1))
            logits = logits + (votes * found.unsqueeze(1)).sum(-1)
        return found.norm(dim=-1)


def capsule(size=0, seed=0):
    return build(Capsule, size, seed)


class DeepFM(nn.Module):
    """Clicks: several categories and numbers, by products of pairs."""

    def __init__(self, w):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(20, w) for _ in range(4)])
        self.numbers, self.deep = nn.Linear(5, w), nn.Sequential(nn.Linear(5 * w, w), nn.ReLU(), nn.Linear(w, 1))

    def forward(self, categories, numbers):
        parts = [table(categories[:, n]) for n, table in enumerate(self.tables)] + [self.numbers(numbers)]
        x = torch.stack(parts, 1)
        pairs = 0.5 * (x.sum(1).pow(2) - x.pow(2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(pairs / x.shape[-1] + self.deep(x.flatten(1))).squeeze(1)


def deepfm(size=0, seed=0):
    return build(DeepFM, size, seed)


class Denoiser(nn.Module):
    """A diffusion model's network: an image and the step of each, of shape (batch,)."""

    def __init__(self, w):
        super().__init__()
        self.w, self.time = w, nn.Sequential(nn.Linear(w, w), nn.SiLU(), nn.Linear(w, w))
        self.a, self.b, self.out = (
            nn.Conv2d(3, w, 3, padding=1),
            nn.Conv2d(w, w, 3, padding=1),
            nn.Conv2d(w, 3, 3, padding=1),
        )
        self.norm = nn.GroupNorm(4, w)

    def forward(self, image, step):
        rates = torch.exp(-math.log(10000) * torch.arange(self.w // 2, device=image.device) / (self.w // 2)).to(
            image.dtype
        )
        angle = step.to(image.dtype)[:, None] * rates
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        y = F.silu(self.norm(self.a(image))) + time[:, :, None, None]
        return self.out(F.silu(self.b(y)))


def denoiser(size=0, seed=0):
    return build(Denoiser, size, seed)


class Camera(nn.Module):
    """Bytes as a camera delivers them."""

    def __init__(self, w):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, w, 3, 2, 1), nn.Linear(w, 5)
        self.register_buffer("mean", torch.tensor([123.7, 116.3, 103.5]).view(1, 3, 1, 1))

    def forward(self, pixels):
        x = (pixels.to(self.mean.dtype) - self.mean) / 58.0
        return self.head(F.relu(self.body(x)).mean((2, 3)))


def camera(size=0, seed=0):
    return build(Camera, size, seed)


class HalfSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x


class OwnFunction(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.a, self.b = nn.Linear(12, w), nn.Linear(w, 4)

    def forward(self, x):
        return self.b(HalfSquare.apply(self.a(x)))


def own_function(size=0, seed=0):
    return build(OwnFunction, size, seed)


class Branches(nn.Module):
    """Control flow that no input changes."""

    def __init__(self, w, deep=True):
        super().__init__()
        self.layers, self.deep, self.head = (
            nn.ModuleList([nn.Linear(12 if n == 0 else w, w) for n in range(3)]),
            deep,
            nn.Linear(w, 4),
        )

    def forward(self, x):
        for n, layer in enumerate(self.layers):
            x = F.relu(layer(x)) if n < 2 or self.deep else x
        if x.shape[-1] > 8:
            x = x * 0.5
        return self.head(x)


def branches(size=0, seed=0):
    return build(Branches, size, seed)


class InPlaceWriter(nn.Module):
    """Fills a buffer of its own making, slice by slice."""

    def __init__(self, w):
        super().__init__()
        self.a = nn.Linear(12, w)

    def forward(self, x):
        y = self.a(x)
        out = torch.zeros_like(y)
        out[:, ::2] = y[:, ::2].relu()
        out[:, 1::2] = y[:, 1::2].tanh()
        return out


def slices(size=0, seed=0):
    return build(InPlaceWriter, size, seed)


class Standardised(nn.Module):
    """Each case by its own mean and deviation."""

    def __init__(self, w):
        super().__init__()
        self.a, self.b = nn.Linear(20, w), nn.Linear(w, 4)

    def forward(self, x):
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
        return self.b(torch.relu(self.a(x)))


def standardised(size=0, seed=0):
    return build(Standardised, size, seed)


class Anchor(nn.Module):
    """A large constant in one channel beside small ones."""

    def __init__(self, w):
        super().__init__()
        self.a, self.p, self.m = nn.Linear(20, w), nn.Linear(w, 3), nn.Linear(w, 1)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return torch.cat([self.p(y).softmax(1), 1000 * self.m(y)], 1)


def price_beside_shares(size=0, seed=0):
    return build(Anchor, size, seed)
