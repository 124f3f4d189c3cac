"""Convolutional networks as people write them; every factory takes a size (0 or 1) and a seed."""

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    """The network with weights of this seed, its batch norms as training leaves them."""
    torch.manual_seed(seed)
    net = make((8, 16)[size])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def conv_bn(i, o, k=3, stride=1, groups=1, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), act())


class Head(nn.Module):
    def __init__(self, width, classes=10):
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = conv_bn(c, c), nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x):
        return F.relu(x + self.b(self.a(x)))


def residual(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), Block(w), Block(w), Head(w)), size, seed)


class InplaceBlock(Block):
    def forward(self, x):
        out = self.b(self.a(x))
        out += x
        return F.relu_(out)


def inplace(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), InplaceBlock(w), Head(w)), size, seed)


class Bottleneck(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.body = nn.Sequential(conv_bn(c, c * 2, 1), conv_bn(c * 2, c * 2, groups=groups), nn.Conv2d(c * 2, c, 1))

    def forward(self, x):
        return F.relu(x + self.body(x))


def resnext(size=0, seed=0):
    return build(
        lambda w: nn.Sequential(conv_bn(3, w, stride=2), Bottleneck(w, 4), Bottleneck(w, 4), Head(w)), size, seed
    )


class DenseLayer(nn.Module):
    def __init__(self, c, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c), nn.Conv2d(c, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def dense(size=0, seed=0):
    def make(w):
        layers = [DenseLayer(w + 4 * n, 4) for n in range(3)]
        return nn.Sequential(conv_bn(3, w, stride=2), *layers, nn.AvgPool2d(2), Head(w + 12))

    return build(make, size, seed)


class Inception(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.stem = conv_bn(3, w, stride=2)
        self.a, self.b, self.c = conv_bn(w, w, 1), nn.Sequential(conv_bn(w, 4, 1), conv_bn(4, w)), conv_bn(w, w, 5)
        self.pool, self.head = conv_bn(w, 4, 1), Head(3 * w + 4)

    def forward(self, x):
        x = self.stem(x)
        pooled = self.pool(F.max_pool2d(x, 3, 1, 1))
        return self.head(torch.cat([self.a(x), self.b(x), self.c(x), pooled], dim=1))


def inception(size=0, seed=0):
    return build(Inception, size, seed)


class SE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class ECA(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        weights = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * weights.squeeze(1)[:, :, None, None]


class CBAM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.mlp, self.spatial = (
            nn.Sequential(nn.Linear(c, 4), nn.ReLU(), nn.Linear(4, c)),
            nn.Conv2d(2, 1, 7, padding=3),
        )

    def forward(self, x):
        channel = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        x = x * channel.view(x.size(0), -1, 1, 1)
        spatial = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return x * self.spatial(spatial).sigmoid()


def excite(size=0, seed=0):
    return build(
        lambda w: nn.Sequential(conv_bn(3, w, stride=2), SE(w), conv_bn(w, w, groups=w), SE(w), Head(w)), size, seed
    )


def attention_gates(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), ECA(), CBAM(w), Head(w)), size, seed)


class Ghost(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.primary, self.cheap = conv_bn(i, o // 2, 1), conv_bn(o // 2, o // 2, groups=o // 2)

    def forward(self, x):
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


def ghost(size=0, seed=0):
    return build(
        lambda w: nn.Sequential(conv_bn(3, w, stride=2), Ghost(w, 2 * w), Ghost(2 * w, w), Head(w)), size, seed
    )


class Shuffle(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch = nn.Sequential(conv_bn(c // 2, c // 2, 1), conv_bn(c // 2, c // 2, groups=c // 2))

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        x = torch.cat((a, self.branch(b)), 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), Shuffle(w), Shuffle(w), Head(w)), size, seed)


class Inverted(nn.Module):
    def __init__(self, c, act):
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(c, 3 * c, 1, act=act), conv_bn(3 * c, 3 * c, groups=3 * c, act=act), SE(3 * c)
        )
        self.out = nn.Sequential(nn.Conv2d(3 * c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x):
        return x + self.out(self.body(x))


def mobile(size=0, seed=0):
    return build(
        lambda w: nn.Sequential(conv_bn(3, w, 3, 2, act=nn.Hardswish), Inverted(w, nn.Hardswish), Head(w)), size, seed
    )


def efficient(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, 3, 2, act=nn.SiLU), Inverted(w, nn.SiLU), Head(w)), size, seed)


class LayerNorm2d(nn.Module):
    def __init__(self, c, eps=1e-6):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c)), eps

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c, eps=1e-6)
        self.up, self.down, self.gamma = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(0.1 * torch.ones(c))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


def convnext(size=0, seed=0):
    def make(w):
        return nn.Sequential(nn.Conv2d(3, w, 4, 4), LayerNorm2d(w), ConvNeXtBlock(w), ConvNeXtBlock(w), Head(w))

    return build(make, size, seed)


class ConvMixer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.spatial = nn.Sequential(nn.Conv2d(c, c, 5, groups=c, padding=2), nn.GELU(), nn.BatchNorm2d(c))
        self.channel = nn.Sequential(nn.Conv2d(c, c, 1), nn.GELU(), nn.BatchNorm2d(c))

    def forward(self, x):
        return self.channel(self.spatial(x) + x)


def convmixer(size=0, seed=0):
    return build(lambda w: nn.Sequential(nn.Conv2d(3, w, 4, 4), ConvMixer(w), ConvMixer(w), Head(w)), size, seed)


def group_norm(size=0, seed=0):
    def make(w):
        part = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.GroupNorm(4, o), nn.Mish())  # noqa: E731
        return nn.Sequential(part(3, w), part(w, w), Head(w))

    return build(make, size, seed)


def instance_norm(size=0, seed=0):
    def make(w):
        part = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.InstanceNorm2d(o, affine=True), nn.PReLU(o))  # noqa: E731
        return nn.Sequential(part(3, w), part(w, w), nn.Conv2d(w, 4, 1))

    return build(make, size, seed)


def dilated(size=0, seed=0):
    def make(w):
        return nn.Sequential(
            conv_bn(3, w, stride=2),
            nn.Conv2d(w, w, 3, padding=2, dilation=2),
            nn.ELU(),
            nn.Conv2d(w, w, 3, padding=4, dilation=4),
            nn.LeakyReLU(0.1),
            Head(w),
        )

    return build(make, size, seed)


class SPP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.out = nn.Linear(c * 21, 10)

    def forward(self, x):
        return self.out(torch.cat([F.adaptive_max_pool2d(x, s).flatten(1) for s in (1, 2, 4)], 1))


def pyramid_pool(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), conv_bn(w, w, stride=2), SPP(w)), size, seed)


def flatten_head(size=0, seed=0):
    side = (32, 48)[size] // 8

    def make(w):
        return nn.Sequential(
            nn.Conv2d(3, w, 3, 2, 1),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(w * side * side, 10),
            nn.LogSoftmax(dim=1),
        )

    return build(make, size, seed)


class RepVGG(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.Conv2d(c, c, 1, bias=False)
        self.na, self.nb, self.nc = nn.BatchNorm2d(c), nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(self.na(self.a(x)) + self.nb(self.b(x)) + self.nc(x))


def repvgg(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), RepVGG(w), RepVGG(w), Head(w)), size, seed)


class HighResolution(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.stem, self.high, self.low = conv_bn(3, w, stride=2), Block(w), conv_bn(w, 2 * w, stride=2)
        self.to_high, self.to_low, self.head = nn.Conv2d(2 * w, w, 1), nn.Conv2d(w, 2 * w, 3, 2, 1), Head(3 * w)

    def forward(self, x):
        x = self.stem(x)
        high, low = self.high(x), self.low(x)
        up = F.interpolate(self.to_high(low), scale_factor=2, mode="nearest")
        high, low = F.relu(high + up), F.relu(low + self.to_low(high))
        return self.head(torch.cat([F.avg_pool2d(high, 2), low], 1))


def high_resolution(size=0, seed=0):
    return build(HighResolution, size, seed)


class BlurPool(nn.Module):
    def __init__(self, c):
        super().__init__()
        kernel = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (kernel[:, None] * kernel / 16).repeat(c, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel, stride=2, groups=x.shape[1])


def antialiased(size=0, seed=0):
    return build(lambda w: nn.Sequential(conv_bn(3, w, stride=2), BlurPool(w), conv_bn(w, w), Head(w)), size, seed)
