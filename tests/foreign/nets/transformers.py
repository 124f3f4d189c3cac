"""Transformers with details of well-known models; every factory takes a size (0 or 1) and a seed."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    torch.manual_seed(seed)
    return make((16, 32)[size])


class Heads(nn.Module):
    """Attention with its own layers for queries, keys and values, as transformers' models have it."""

    def __init__(self, d, heads=2, bias=True, scaled=True):
        super().__init__()
        self.heads, self.scale = heads, (d // heads) ** -0.5 if scaled else 1.0
        self.q, self.k, self.v, self.out = (nn.Linear(d, d, bias=bias) for _ in range(4))

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, memory=None, bias=None):
        memory = x if memory is None else memory
        q, k, v = self.split(self.q(x) * self.scale), self.split(self.k(memory)), self.split(self.v(memory))
        scores = q @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Whisper(nn.Module):
    """An encoder of spectra: two convolutions, a table of sines, layers with the norm first."""

    def __init__(self, d, frames, bands=12, layers=2):
        super().__init__()
        self.a, self.b = nn.Conv1d(bands, d, 3, padding=1), nn.Conv1d(d, d, 3, stride=2, padding=1)
        rates = torch.exp(-math.log(10000.0) / (d // 2 - 1) * torch.arange(d // 2))
        angles = torch.arange(frames // 2)[:, None] * rates
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(2 * layers + 1)])
        self.attention = nn.ModuleList([Heads(d) for _ in range(layers)])
        self.up, self.down = (
            nn.ModuleList([nn.Linear(i * d, o * d) for _ in range(layers)]) for i, o in ((1, 4), (4, 1))
        )

    def forward(self, mel):
        x = F.gelu(self.b(F.gelu(self.a(mel)))).transpose(1, 2) + self.places
        for n, attention in enumerate(self.attention):
            x = x + attention(self.norms[2 * n](x))
            x = x + self.down[n](F.gelu(self.up[n](self.norms[2 * n + 1](x))))
        return self.norms[-1](x)


def whisper(size=0, seed=0):
    return build(lambda d: Whisper(d, (24, 40)[size]), size, seed)


class T5Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def bucket(apart, buckets=8, longest=16):
    """The bucket of a distance between tokens, for either direction: exact for small ones, then logarithmic."""
    half, near = buckets // 2, buckets // 4
    side, far = (apart > 0).long() * half, apart.abs()
    log = near + (torch.log(far.clamp(min=1) / near) / math.log(longest / near) * (half - near)).long()
    return side + torch.where(far < near, far, log.clamp(max=half - 1))


class T5(nn.Module):
    """An encoder without a scale, with a bias of relative positions that all layers share and a mask of padding."""

    def __init__(self, d, layers=2):
        super().__init__()
        self.words, self.relative = nn.Embedding(100, d), nn.Embedding(8, 2)
        self.norms = nn.ModuleList([T5Norm(d) for _ in range(2 * layers + 1)])
        self.attention = nn.ModuleList([Heads(d, bias=False, scaled=False) for _ in range(layers)])
        self.up, self.gate, self.down = (
            nn.ModuleList([nn.Linear(i * d, o * d, bias=False) for _ in range(layers)])
            for i, o in ((1, 2), (1, 2), (2, 1))
        )

    def forward(self, input_ids, attention_mask):
        x, place = self.words(input_ids), torch.arange(input_ids.shape[1], device=input_ids.device)
        bias = self.relative(bucket(place[None, :] - place[:, None])).permute(2, 0, 1).unsqueeze(0)
        bias = bias + (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for n, attention in enumerate(self.attention):
            x = x + attention(self.norms[2 * n](x), bias=bias)
            y = self.norms[2 * n + 1](x)
            x = x + self.down[n](F.gelu(self.up[n](y), approximate="tanh") * self.gate[n](y))
        return self.norms[-1](x)


def t5(size=0, seed=0):
    return build(T5, size, seed)


def to_map(x, h, w):
    return x.transpose(1, 2).reshape(x.shape[0], -1, h, w)


class SegFormer(nn.Module):
    """Overlapping patches, attention to a reduced map, a mix of neighbours between two layers, a head of all stages."""

    def __init__(self, d):
        super().__init__()
        self.patches = nn.ModuleList([nn.Conv2d(3, d, 7, 4, 3), nn.Conv2d(d, 2 * d, 3, 2, 1)])
        widths, reductions = (d, 2 * d), (4, 2)
        self.reduce = nn.ModuleList([nn.Conv2d(w, w, r, r) for w, r in zip(widths, reductions)])
        self.norms = nn.ModuleList([nn.ModuleList([nn.LayerNorm(w) for _ in range(4)]) for w in widths])
        self.attention = nn.ModuleList([Heads(w) for w in widths])
        self.up, self.down = (nn.ModuleList([nn.Linear(i * w, o * w) for w in widths]) for i, o in ((1, 2), (2, 1)))
        self.mix = nn.ModuleList([nn.Conv2d(2 * w, 2 * w, 3, 1, 1, groups=2 * w) for w in widths])
        self.project = nn.ModuleList([nn.Linear(w, d) for w in widths])
        self.fuse, self.head = nn.Conv2d(2 * d, d, 1), nn.Conv2d(d, 5, 1)

    def stage(self, n, x):
        x = self.patches[n](x)
        h, w = x.shape[-2:]
        first, second, third, last = self.norms[n]
        x = first(x.flatten(2).transpose(1, 2))
        y = second(x)
        small = self.reduce[n](to_map(y, h, w))
        x = x + self.attention[n](y, third(small.flatten(2).transpose(1, 2)))
        y = self.mix[n](to_map(self.up[n](x), h, w))
        x = last(x + self.down[n](F.gelu(y.flatten(2).transpose(1, 2))))
        return to_map(x, h, w)

    def forward(self, image):
        fine = self.stage(0, image)
        maps = (fine, self.stage(1, fine))
        same = [to_map(project(y.flatten(2).transpose(1, 2)), *y.shape[-2:]) for project, y in zip(self.project, maps)]
        same = [F.interpolate(y, size=fine.shape[-2:], mode="bilinear", align_corners=False) for y in same]
        return self.head(F.relu(self.fuse(torch.cat(same, 1))))


def segformer(size=0, seed=0):
    return build(SegFormer, size, seed)


class Anchored(nn.Module):
    """Boxes as centre and sides, from anchors, beside an objectness and classes, as YOLOv5 has them."""

    def __init__(self, w, classes=3):
        super().__init__()
        layers = [(3, w, 2), (w, w, 2), (w, 2 * w, 2)]
        self.body = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.SiLU()) for i, o, s in layers]
        )
        self.heads = nn.ModuleList([nn.Conv2d(i, 2 * (5 + classes), 1) for i in (w, 2 * w)])
        self.register_buffer("anchors", torch.tensor([[[5.0, 7.0], [9.0, 6.0]], [[14.0, 22.0], [25.0, 17.0]]]))

    def forward(self, image):
        x, found = self.body[1](self.body[0](image)), []
        for n, (level, stride) in enumerate(((x, 4), (self.body[2](x), 8))):
            y = self.heads[n](level)
            b, _, h, w = y.shape
            y = y.view(b, 2, -1, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack([columns, rows], -1).to(y) - 0.5
            centre = (y[..., :2] * 2 + grid) * stride
            sides = (y[..., 2:4] * 2) ** 2 * self.anchors[n].view(1, 2, 1, 1, 2)
            found.append(torch.cat([centre, sides, y[..., 4:]], -1).flatten(1, 3))
        return torch.cat(found, 1)


def yolo_anchors(size=0, seed=0):
    return build(Anchored, size, seed)
