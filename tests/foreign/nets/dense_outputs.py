"""Networks that answer with maps, boxes, masks and pictures; every factory takes a size (0 or 1) and a seed."""

import torch
import torch.nn.functional as F
from torch import nn


def build(make, size, seed):
    torch.manual_seed(seed)
    return make((8, 16)[size])


def block(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, w, labels=False):
        super().__init__()
        self.a, self.b, self.c = block(3, w), block(w, 2 * w), block(2 * w, 2 * w)
        self.up1, self.up2 = nn.ConvTranspose2d(2 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.d, self.e, self.out, self.labels = block(4 * w, 2 * w), block(2 * w, w), nn.Conv2d(w, 4, 1), labels

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        x = self.d(torch.cat([self.up1(c), b], 1))
        x = self.out(self.e(torch.cat([self.up2(x), a], 1)))
        return x.argmax(1) if self.labels else x


def unet(size=0, seed=0):
    return build(UNet, size, seed)


def label_map(size=0, seed=0):
    return build(lambda w: UNet(w, labels=True), size, seed)


class FPN(nn.Module):
    def __init__(self, w, mode="nearest"):
        super().__init__()
        self.stages = nn.ModuleList([block(3, w, 2), block(w, 2 * w, 2), block(2 * w, 4 * w, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, w, 1) for c in (w, 2 * w, 4 * w)])
        self.smooth, self.mode = nn.ModuleList([nn.Conv2d(w, w, 3, padding=1) for _ in range(3)]), mode

    def forward(self, x):
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        last = self.lateral[2](found[2])
        levels = [last]
        for n in (1, 0):
            last = self.lateral[n](found[n]) + F.interpolate(last, scale_factor=2, mode=self.mode)
            levels.insert(0, last)
        return tuple(smooth(level) for smooth, level in zip(self.smooth, levels))


def pyramid(size=0, seed=0):
    return build(FPN, size, seed)


class Upsampled(nn.Module):
    def __init__(self, w, align):
        super().__init__()
        self.body, self.out = nn.Sequential(block(3, w, 2), block(w, w, 2)), nn.Conv2d(w, 5, 1)
        self.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=align)

    def forward(self, x):
        return self.up(self.out(self.body(x)))


def bilinear(size=0, seed=0):
    return build(lambda w: Upsampled(w, False), size, seed)


def bilinear_aligned(size=0, seed=0):
    return build(lambda w: Upsampled(w, True), size, seed)


class ASPP(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.body = nn.Sequential(block(3, w, 2), block(w, w, 2))
        self.rates = nn.ModuleList([nn.Conv2d(w, w, 3, padding=r, dilation=r) for r in (1, 2, 4)])
        self.image, self.out = nn.Conv2d(w, w, 1), nn.Conv2d(4 * w, 6, 1)

    def forward(self, x):
        size = x.shape[-2:]
        x = self.body(x)
        pooled = F.interpolate(
            self.image(F.adaptive_avg_pool2d(x, 1)), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        x = self.out(torch.cat([*(F.relu(rate(x)) for rate in self.rates), pooled], 1))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def deeplab(size=0, seed=0):
    return build(ASPP, size, seed)


class SuperResolution(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.head, self.body = nn.Conv2d(3, w, 3, padding=1), nn.Sequential(block(w, w), nn.Conv2d(w, w, 3, padding=1))
        self.tail = nn.Sequential(nn.Conv2d(w, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x):
        y = self.head(x)
        up = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        return self.tail(y + 0.2 * self.body(y)) + up


def super_resolution(size=0, seed=0):
    return build(SuperResolution, size, seed)


class Yolo(nn.Module):
    """Boxes in pixels beside scores, of three scales; together, or each by itself."""

    def __init__(self, w, together, classes=4, image=64):
        super().__init__()
        self.fpn = FPN(w)
        self.box = nn.ModuleList([nn.Conv2d(w, 4, 1) for _ in range(3)])
        self.score = nn.ModuleList([nn.Conv2d(w, classes, 1) for _ in range(3)])
        self.together = together

    def forward(self, x):
        boxes, scores = [], []
        for n, level in enumerate(self.fpn(x)):
            stride = 2 ** (n + 1)
            h, w = level.shape[-2:]
            ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = (torch.stack([xs, ys]).to(level) + 0.5) * stride
            box = self.box[n](level)
            centre, side = grid + (box[:, :2].sigmoid() - 0.5) * stride, box[:, 2:].exp() * stride
            boxes.append(torch.cat([centre - side / 2, centre + side / 2], 1).flatten(2))
            scores.append(self.score[n](level).sigmoid().flatten(2))
        boxes, scores = torch.cat(boxes, 2), torch.cat(scores, 2)
        return torch.cat([boxes, scores], 1).transpose(1, 2) if self.together else (boxes.transpose(1, 2), scores)


def yolo_together(size=0, seed=0):
    return build(lambda w: Yolo(w, True), size, seed)


def yolo_apart(size=0, seed=0):
    return build(lambda w: Yolo(w, False), size, seed)


class YoloRaw(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.fpn, self.heads = FPN(w), nn.ModuleList([nn.Conv2d(w, 3 * 9, 1) for _ in range(3)])

    def forward(self, x):
        out = []
        for head, level in zip(self.heads, self.fpn(x)):
            y = head(level)
            n, _, h, w = y.shape
            out.append(y.view(n, 3, 9, h, w).permute(0, 1, 3, 4, 2).contiguous())
        return out


def yolo_raw(size=0, seed=0):
    return build(YoloRaw, size, seed)


class DETR(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.body, self.project = (
            nn.Sequential(block(3, w, 2), block(w, 2 * w, 2), block(2 * w, 2 * w, 2)),
            nn.Conv2d(2 * w, 16, 1),
        )
        self.row, self.col = nn.Parameter(torch.rand(12, 8)), nn.Parameter(torch.rand(12, 8))
        self.queries = nn.Parameter(torch.randn(6, 16))
        self.self_attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.cross, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.classes, self.boxes = nn.Linear(16, 5), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        x = self.project(self.body(x))
        h, w = x.shape[-2:]
        place = torch.cat([self.col[:w].unsqueeze(0).repeat(h, 1, 1), self.row[:h].unsqueeze(1).repeat(1, w, 1)], -1)
        memory = x.flatten(2).transpose(1, 2) + place.flatten(0, 1)
        q = self.queries.unsqueeze(0).expand(x.shape[0], -1, -1)
        q = self.norm(q + self.self_attention(q, q, q)[0])
        q = self.norm(q + self.cross(q, memory, memory)[0])
        return {"pred_logits": self.classes(q), "pred_boxes": self.boxes(q).sigmoid()}


def detr(size=0, seed=0):
    return build(DETR, size, seed)


class Heatmaps(nn.Module):
    """Keypoints by their expected place, as soft-argmax has it."""

    def __init__(self, w):
        super().__init__()
        self.body = nn.Sequential(
            block(3, w, 2), block(w, w), nn.ConvTranspose2d(w, w, 4, 2, 1), nn.ReLU(), nn.Conv2d(w, 5, 1)
        )

    def forward(self, x):
        maps = self.body(x)
        n, k, h, w = maps.shape
        p = (10 * maps).flatten(2).softmax(-1).view(n, k, h, w)
        xs = torch.linspace(0, 1, w, device=x.device, dtype=x.dtype)
        ys = torch.linspace(0, 1, h, device=x.device, dtype=x.dtype)
        return torch.stack([(p.sum(2) * xs).sum(-1), (p.sum(3) * ys).sum(-1)], -1)


def keypoints(size=0, seed=0):
    return build(Heatmaps, size, seed)


class Deformable(nn.Module):
    """Samples its map where an offset says, as deformable convolutions and flow do."""

    def __init__(self, w):
        super().__init__()
        self.body, self.offset, self.out = block(3, w, 2), nn.Conv2d(w, 2, 3, padding=1), nn.Conv2d(w, 4, 1)

    def forward(self, x):
        y = self.body(x)
        flow = 0.1 * torch.tanh(self.offset(y)).permute(0, 2, 3, 1)
        theta = torch.eye(2, 3, dtype=x.dtype).unsqueeze(0).repeat(x.shape[0], 1, 1)
        grid = F.affine_grid(theta, list(y.shape), align_corners=False) + flow
        return self.out(F.grid_sample(y, grid, mode="bilinear", padding_mode="border", align_corners=False))


def deformable(size=0, seed=0):
    return build(Deformable, size, seed)


class CornerPoints(nn.Module):
    """The best places of a map, by topk and gather, as CenterNet decodes."""

    def __init__(self, w):
        super().__init__()
        self.body, self.heat, self.size = (
            nn.Sequential(block(3, w, 2), block(w, w, 2)),
            nn.Conv2d(w, 3, 1),
            nn.Conv2d(w, 2, 1),
        )

    def forward(self, x):
        y = self.body(x)
        heat, size = 20 * self.heat(y), self.size(y).flatten(2)
        scores, places = heat.amax(1).flatten(1).topk(4, dim=1)
        return scores.sigmoid(), size.gather(2, places.unsqueeze(1).expand(-1, 2, -1))


def centernet(size=0, seed=0):
    return build(CornerPoints, size, seed)


class Autoencoder(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, w, 4, 2, 1), nn.ReLU(), nn.Conv2d(w, 2 * w, 4, 2, 1), nn.ReLU())
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * w, w, 3, 2, 1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(w, 3, 3, 2, 1, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.up(self.down(x))


def autoencoder(size=0, seed=0):
    return build(Autoencoder, size, seed)


class VAE(Autoencoder):
    """In evaluation the latent is its mean."""

    def __init__(self, w):
        super().__init__(w)
        self.mean, self.logvar = nn.Conv2d(2 * w, 4, 1), nn.Conv2d(2 * w, 4, 1)
        self.back = nn.Conv2d(4, 2 * w, 1)

    def forward(self, x):
        y = self.down(x)
        mean, logvar = self.mean(y), self.logvar(y)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp() if self.training else mean
        return self.up(self.back(z)), mean, logvar


def vae(size=0, seed=0):
    return build(VAE, size, seed)


class VQ(nn.Module):
    """The nearest of a table of codes."""

    def __init__(self, w):
        super().__init__()
        self.down, self.codes, self.up = nn.Conv2d(3, w, 4, 4), nn.Embedding(32, w), nn.ConvTranspose2d(w, 3, 4, 4)

    def forward(self, x):
        y = self.down(x).permute(0, 2, 3, 1)
        distance = y.pow(2).sum(-1, keepdim=True) - 2 * y @ self.codes.weight.t() + self.codes.weight.pow(2).sum(1)
        codes = distance.argmin(-1)
        return self.up(self.codes(codes).permute(0, 3, 1, 2)), codes


def vector_quantised(size=0, seed=0):
    return build(VQ, size, seed)


class Style(nn.Module):
    """The Gram matrices of two layers."""

    def __init__(self, w):
        super().__init__()
        self.a, self.b = block(3, w, 2), block(w, w, 2)

    def gram(self, x):
        y = x.flatten(2)
        return y @ y.transpose(1, 2) / (x.shape[1] * x.shape[2] * x.shape[3])

    def forward(self, x):
        a = self.a(x)
        return self.gram(a), self.gram(self.b(a))


def gram(size=0, seed=0):
    return build(Style, size, seed)


class Siamese(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.body = nn.Sequential(
            block(3, w, 2), block(w, w, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, 16)
        )

    def forward(self, left, right):
        return F.cosine_similarity(self.body(left), self.body(right), dim=1)


def siamese(size=0, seed=0):
    return build(Siamese, size, seed)


class Retrieval(nn.Module):
    """GeM and an embedding of unit length, and the cosines to the classes."""

    def __init__(self, w):
        super().__init__()
        self.body, self.p, self.classes = (
            block(3, w, 2),
            nn.Parameter(torch.tensor(3.0)),
            nn.Parameter(torch.randn(7, w)),
        )

    def forward(self, x):
        y = self.body(x).clamp(min=1e-6).pow(self.p)
        y = F.normalize(F.avg_pool2d(y, y.shape[-2:]).pow(1.0 / self.p).flatten(1), dim=1)
        return y, 16 * F.linear(y, F.normalize(self.classes))


def gem(size=0, seed=0):
    return build(Retrieval, size, seed)
