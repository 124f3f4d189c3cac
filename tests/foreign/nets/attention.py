"""Transformers and their relatives as people write them; every factory takes a size (0 or 1) and a seed."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    torch.manual_seed(seed)
    return make((16, 32)[size])


class Attention(nn.Module):
    def __init__(self, d, heads=2):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x, mask=None):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))


class Layer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.a, self.b, self.attention = nn.LayerNorm(d), nn.LayerNorm(d), Attention(d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x, mask=None):
        x = x + self.attention(self.a(x), mask)
        return x + self.mlp(self.b(x))


class ViT(nn.Module):
    def __init__(self, d, side):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, d, 8, 8), nn.Parameter(torch.randn(1, 1, d))
        self.place = nn.Parameter(0.1 * torch.randn(1, (side // 8) ** 2 + 1, d))
        self.layers, self.norm, self.head = nn.ModuleList([Layer(d), Layer(d)]), nn.LayerNorm(d), nn.Linear(d, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


def vit(size=0, seed=0):
    return build(lambda d: ViT(d, (32, 48)[size]), size, seed)


class Mixer(nn.Module):
    def __init__(self, d, side):
        super().__init__()
        t = (side // 8) ** 2
        self.patch, self.a, self.b = nn.Conv2d(3, d, 8, 8), nn.LayerNorm(d), nn.LayerNorm(d)
        self.tokens = nn.Sequential(nn.Linear(t, 2 * t), nn.GELU(), nn.Linear(2 * t, t))
        self.channels, self.head = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)), nn.Linear(d, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.a(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.b(x))
        return self.head(x.mean(1))


def mixer(size=0, seed=0):
    return build(lambda d: Mixer(d, (32, 48)[size]), size, seed)


def window_partition(x, w):
    b, h, wd, c = x.shape
    return x.view(b, h // w, w, wd // w, w, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, w * w, c)


def window_reverse(windows, w, h, wd):
    b = windows.shape[0] // ((h // w) * (wd // w))
    x = windows.view(b, h // w, wd // w, w, w, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, wd, -1)


class Swin(nn.Module):
    """Two blocks, the second of shifted windows with a mask and a relative bias."""

    def __init__(self, d, side, w=4):
        super().__init__()
        self.patch, self.w, grid = nn.Conv2d(3, d, 4, 4), w, side // 4
        self.layers, self.head = nn.ModuleList([Layer(d), Layer(d)]), nn.Linear(d, 10)
        image = torch.zeros(1, grid, grid, 1)
        spans = (slice(0, -w), slice(-w, -w // 2), slice(-w // 2, None))
        for n, (a, b) in enumerate([(a, b) for a in spans for b in spans]):
            image[:, a, b, :] = n
        ids = window_partition(image, w).squeeze(-1)
        apart = ids.unsqueeze(1) - ids.unsqueeze(2)
        self.register_buffer("mask", apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0).unsqueeze(1))

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, _ = x.shape
        x = window_reverse(self.layers[0](window_partition(x, self.w)), self.w, h, w)
        x = torch.roll(x, shifts=(-self.w // 2, -self.w // 2), dims=(1, 2))
        parts = window_partition(x, self.w)
        x = window_reverse(self.layers[1](parts, self.mask.repeat(n, 1, 1, 1)), self.w, h, w)
        x = torch.roll(x, shifts=(self.w // 2, self.w // 2), dims=(1, 2))
        return self.head(x.mean((1, 2)))


def swin(size=0, seed=0):
    return build(lambda d: Swin(d, (32, 48)[size]), size, seed)


class BERT(nn.Module):
    """Tokens and a mask of padding, which becomes the smallest number."""

    def __init__(self, d):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(100, d), nn.Embedding(32, d), nn.Embedding(2, d)
        self.norm, self.layers = nn.LayerNorm(d, eps=1e-12), nn.ModuleList([Layer(d), Layer(d)])
        self.pooler, self.head = nn.Linear(d, d), nn.Linear(d, 3)

    def forward(self, input_ids, attention_mask):
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.places(place) + self.kinds(torch.zeros_like(input_ids))
        x = self.norm(x)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(torch.tanh(self.pooler(x[:, 0]))), x


def bert(size=0, seed=0):
    return build(BERT, size, seed)


class GPT(nn.Module):
    def __init__(self, d, fill):
        super().__init__()
        self.words, self.places = nn.Embedding(100, d), nn.Embedding(32, d)
        self.layers, self.norm, self.fill = nn.ModuleList([Layer(d), Layer(d)]), nn.LayerNorm(d), fill
        self.head = nn.Linear(d, 100, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        t = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(t, device=ids.device))
        mask = torch.full((t, t), self.fill, dtype=x.dtype, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))


def gpt_infinite(size=0, seed=0):
    return build(lambda d: GPT(d, float("-inf")), size, seed)


def gpt_large(size=0, seed=0):
    return build(lambda d: GPT(d, -1e9), size, seed)


class Scaled(nn.Module):
    """torch's own attention, causal, with grouped heads of keys."""

    def __init__(self, d, causal):
        super().__init__()
        self.q, self.kv, self.out, self.causal = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d), causal

    def forward(self, x):
        n, t, d = x.shape
        q = self.q(x).view(n, t, 4, d // 4).transpose(1, 2)
        k, v = self.kv(x).view(n, t, 2, 2, d // 4).permute(2, 0, 3, 1, 4)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


def sdpa(size=0, seed=0):
    return build(lambda d: Scaled(d, False), size, seed)


def sdpa_causal(size=0, seed=0):
    return build(lambda d: Scaled(d, True), size, seed)


class RMSNorm(nn.Module):
    def __init__(self, d, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Llama(nn.Module):
    """Rotary positions, RMS norms and a gated MLP."""

    def __init__(self, d, heads=2):
        super().__init__()
        self.a, self.b, self.heads, self.words = RMSNorm(d), RMSNorm(d), heads, nn.Embedding(100, d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate, self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        half = d // heads // 2
        self.register_buffer("rates", 10000.0 ** (-torch.arange(half) / half), persistent=False)

    def rotate(self, x):
        angle = torch.arange(x.shape[2], device=x.device).to(x.dtype)[:, None] * self.rates.to(x.dtype)
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(self, ids):
        x = self.words(ids)
        n, t, d = x.shape
        q, k, v = self.qkv(self.a(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.rotate(q) @ self.rotate(k).transpose(-1, -2) / (d // self.heads) ** 0.5
        hidden = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = self.b(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def llama(size=0, seed=0):
    return build(Llama, size, seed)


class ALiBi(nn.Module):
    def __init__(self, d, heads=2):
        super().__init__()
        self.attention, self.head = Attention(d, heads), nn.Linear(d, 5)
        self.register_buffer("slopes", torch.tensor([2.0 ** -(8 / heads * (n + 1)) for n in range(heads)]))

    def forward(self, x):
        t = torch.arange(x.shape[1], device=x.device)
        apart = -(t[None, :] - t[:, None]).abs()
        return self.head(self.attention(x, self.slopes[:, None, None] * apart))


def alibi(size=0, seed=0):
    return build(ALiBi, size, seed)


class LinearAttention(nn.Module):
    """Performers' einsum, causal by a running sum."""

    def __init__(self, d):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(d, 8), nn.Linear(d, 8), nn.Linear(d, 8)

    def forward(self, x):
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        kv = torch.einsum("ntd,nte->ntde", k, v).cumsum(1)
        norm = torch.einsum("ntd,ntd->nt", q, k.cumsum(1))
        return torch.einsum("ntd,ntde->nte", q, kv) / norm.unsqueeze(-1)


def linear_attention(size=0, seed=0):
    return build(LinearAttention, size, seed)


class AttentionPool(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.score, self.value, self.head = nn.Linear(d, 1), nn.Linear(d, d), nn.Linear(d, 4)

    def forward(self, x):
        weight = self.score(torch.tanh(x)).softmax(1)
        return self.head((weight * self.value(x)).sum(1))


def attention_pool(size=0, seed=0):
    return build(AttentionPool, size, seed)


class MoE(nn.Module):
    """The two best of four experts, weighed."""

    def __init__(self, d):
        super().__init__()
        self.gate = nn.Linear(d, 4)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d)) for _ in range(4)])

    def forward(self, x):
        weights, which = self.gate(x).topk(2, dim=-1)
        weights = weights.softmax(-1)
        every = torch.stack([expert(x) for expert in self.experts], -2)
        chosen = every.gather(-2, which.unsqueeze(-1).expand(*which.shape, x.shape[-1]))
        return (chosen * weights.unsqueeze(-1)).sum(-2)


def mixture(size=0, seed=0):
    return build(MoE, size, seed)


class Encoder(nn.Module):
    """torch's own encoder."""

    def __init__(self, d):
        super().__init__()
        layer = nn.TransformerEncoderLayer(d, 2, 2 * d, batch_first=True, dropout=0.1)
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(d, 4)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


def encoder(size=0, seed=0):
    return build(Encoder, size, seed)


class Perceiver(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.latents, self.cross = nn.Parameter(torch.randn(4, d)), nn.MultiheadAttention(d, 2, batch_first=True)
        self.layer = Layer(d)

    def forward(self, x):
        latents = self.latents.expand(x.shape[0], -1, -1)
        return self.layer(self.cross(latents, x, x, need_weights=False)[0] + latents)


def perceiver(size=0, seed=0):
    return build(Perceiver, size, seed)
