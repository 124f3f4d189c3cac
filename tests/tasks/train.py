"""Trains the detector or the segmenter on drawn scenes, a few minutes on one thread, and measures it on test scenes.

python -m tests.tasks.train detector --out detector.pth
python -m tests.tasks.train segmenter --out segmenter.pth
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tests.tasks import detector, measures, segmenter
from tests.tasks.scenes import (
    DETECTED,
    IGNORED,
    LETTERBOX_FILL,
    SEGMENTED,
    TEST_SCENES,
    Scene,
    Split,
    letterbox,
    scenes,
)

Array = npt.NDArray[Any]
Loss = Callable[[nn.Module, Tensor, Sequence[Tensor]], Tensor]

CONTENTS = {"detector": DETECTED, "segmenter": SEGMENTED}
SCENES = 5000
BATCH = 16
STEPS = {"detector": 2800, "segmenter": 1600}
RATE = 4e-3
THRESHOLD, NMS = 0.05, 0.5


def fitted(scene: Scene) -> tuple[Array, Array, Array]:
    """A scene in the size of the input: pixels (uint8, H × W × 3), boxes and mask."""
    pixels, moved = letterbox(scene.pixels, detector.SIZE, LETTERBOX_FILL, Image.Resampling.BILINEAR)
    mask, _ = letterbox(scene.mask, detector.SIZE, IGNORED, Image.Resampling.NEAREST)
    return pixels, scene.boxes * np.tile(moved[:2], 2) + np.tile(moved[2:], 2), mask


def images(pixels: Sequence[Array]) -> Tensor:
    """The input (B, 3, H, W) of pictures, with values from 0 to 1."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().contiguous() / 255


def _grid_targets(boxes: Array, digits: Array) -> tuple[Array, Array, Array]:
    """For every cell how near the centre of an object is (0 … 1), and box and class of the nearest (-1 for none)."""
    rows, columns = (side // detector.STRIDE for side in detector.SIZE)
    y, x = np.mgrid[:rows, :columns]
    heat, owner = np.zeros((rows, columns)), np.full((rows, columns), -1)
    for number, (x1, y1, x2, y2) in enumerate(boxes / detector.STRIDE):
        column, row = min(int((x1 + x2) / 2), columns - 1), min(int((y1 + y2) / 2), rows - 1)
        spread = max(0.5, ((x2 - x1) * (y2 - y1)) ** 0.5 / 6)
        near = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * spread**2))
        inside = (x + 0.5 > x1) & (x + 0.5 < x2) & (y + 0.5 > y1) & (y + 0.5 < y2)
        close = (abs(x - column) <= 1) & (abs(y - row) <= 1) & inside & (near > heat)
        close[row, column] = True
        owner[close] = number
        heat = np.maximum(heat, near)
    kinds = np.where(owner < 0, -1, np.append(digits, -1)[owner])
    return heat, np.append(boxes, np.zeros((1, 4)), 0)[owner].reshape(-1, 4), kinds.reshape(-1)


def detector_targets(drawn: Sequence[tuple[Array, Array, Array]], digits: Sequence[Array]) -> list[Tensor]:
    """Heat, boxes and classes of the cells of all scenes."""
    targets = [_grid_targets(boxes, kinds) for (_, boxes, _), kinds in zip(drawn, digits, strict=True)]
    heat, boxes, kinds = (np.stack(part) for part in zip(*targets, strict=True))
    return [torch.from_numpy(heat).float(), torch.from_numpy(boxes).float(), torch.from_numpy(kinds)]


def detector_loss(net: nn.Module, image: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Focal loss of the centres, cross-entropy of the classes, and 1 - IoU of the boxes near a centre."""
    heat, true, kinds = targets
    boxes, objects, classes = net.grid(image)  # type: ignore[operator]  # a module
    likely = torch.sigmoid(objects[:, 0]).clamp(1e-4, 1 - 1e-4)
    centre = heat == 1
    found = torch.where(centre, (1 - likely) ** 2 * likely.log(), (1 - heat) ** 4 * likely**2 * (1 - likely).log())
    near = kinds >= 0
    of_classes = classes.flatten(2).transpose(1, 2)[near]
    named = functional.binary_cross_entropy_with_logits(
        of_classes, functional.one_hot(kinds[near], detector.CLASSES).float()
    )
    return -found.sum() / centre.sum() + 4 * named + 2 * _box_loss(boxes[near], true[near])


def _box_loss(boxes: Tensor, true: Tensor) -> Tensor:
    common = (torch.minimum(boxes[:, 2:], true[:, 2:]) - torch.maximum(boxes[:, :2], true[:, :2])).clamp(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (true[:, 2:] - true[:, :2]).prod(1)
    return (1 - common / (areas - common)).mean() + 0.05 * functional.smooth_l1_loss(boxes, true)


def segmenter_loss(net: nn.Module, image: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Cross-entropy and one minus the Dice coefficient, over those of every fourth pixel that count."""
    mask = targets[0][:, 1::2, ::2].long()
    logits = net(image)["logits"][:, :, 1::2, ::2]
    counts = (mask != IGNORED)[:, None].float()
    truth = functional.one_hot(mask.where(mask != IGNORED, 0), segmenter.CLASSES).permute(0, 3, 1, 2).float() * counts
    likely = logits.softmax(1) * counts
    dice = 2 * (likely * truth).sum((0, 2, 3)) / ((likely + truth).sum((0, 2, 3)) + 1)
    loss: Tensor = functional.cross_entropy(logits, mask, ignore_index=IGNORED) + (1 - dice).mean()
    return loss


def _augmented(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Images with other colours: channels in another order, brightness and contrast changed, some inverted, noise."""
    count = len(batch)
    batch = batch[:, torch.randperm(3, generator=generator)]
    gain, offset = (torch.rand(count, 1, 1, 1, generator=generator) for _ in range(2))
    batch = (batch - 0.5) * (0.7 + 0.5 * gain) + 0.4 + 0.2 * offset
    batch = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.3, 1 - batch, batch)
    return (batch + 0.02 * torch.randn(batch.shape, generator=generator)).clamp(0, 1)


def fit(net: nn.Module, data: tuple[Tensor, Sequence[Tensor]], loss: Loss, steps: int) -> None:
    """Trains in place with Adam and a learning rate that rises and falls once."""
    pixels, targets = data
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.15)
    generator, began = torch.Generator().manual_seed(0), time.monotonic()
    net.train()
    for step in range(steps):
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        batch = _augmented(pixels[chosen].permute(0, 3, 1, 2).float() / 255, generator)
        value = loss(net, batch, [target[chosen] for target in targets])
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 400 == 399:
            print(f"step {step + 1} of {steps}: loss {value.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    net.eval()


def train(kind: str, steps: int) -> nn.Module:
    """A trained detector, or a trained segmenter."""
    torch.manual_seed(0)
    chosen = list(scenes(Split.TRAIN, CONTENTS[kind], SCENES, seed=1))
    drawn = [fitted(scene) for scene in chosen]
    pixels = torch.from_numpy(np.stack([picture for picture, _, _ in drawn]))
    if kind == "detector":
        net = detector.detector()
        fit(net, (pixels, detector_targets(drawn, [scene.digits for scene in chosen])), detector_loss, steps)
    else:
        net = segmenter.segmenter()
        masks = torch.from_numpy(np.stack([mask for _, _, mask in drawn]))
        fit(net, (pixels, [masks]), segmenter_loss, steps)
    return net


def quality(kind: str, net: nn.Module, count: int) -> dict[str, float]:
    """The metrics on the first `count` test scenes, in the size of the input."""
    chosen = list(scenes(Split.TEST, CONTENTS[kind], count))
    drawn = [fitted(scene) for scene in chosen]
    pixels = images([picture for picture, _, _ in drawn])
    if kind == "segmenter":
        with torch.inference_mode():
            predicted = net(pixels)["logits"].argmax(1).numpy()
        masks = [mask for _, _, mask in drawn]
        return {"mIoU": measures.mean_iou(list(predicted), masks, segmenter.CLASSES, IGNORED)}
    truths = [(boxes, scene.digits) for (_, boxes, _), scene in zip(drawn, chosen, strict=True)]
    raw = detector.Heads(net.grid)  # type: ignore[arg-type]  # a Grid
    with torch.inference_mode():
        selected = {name: value.numpy() for name, value in net(pixels).items()}
        cells = {name: value.numpy() for name, value in raw(pixels).items()}
    top = list(zip(selected["boxes"], selected["scores"], selected["labels"], strict=True))
    best = measures.selected(cells, NMS, THRESHOLD, detector.TOP)
    found = {"detector": top, "heads": list(zip(best["boxes"], best["scores"], best["labels"], strict=True))}
    return {
        f"{name}, mAP at IoU {iou}": measures.mean_average_precision(boxes, truths, iou)
        for name, boxes in found.items()
        for iou in (0.5, 0.75)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(STEPS))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write: .pth or .safetensors")
    parser.add_argument("--steps", type=int, help="of the optimizer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    net = train(arguments.kind, arguments.steps or STEPS[arguments.kind])
    weights = {name: value.contiguous() for name, value in net.state_dict().items()}
    if arguments.out.suffix == ".safetensors":
        safetensors.torch.save_file(weights, arguments.out)
    else:
        torch.save(weights, arguments.out)
    print(*(f"{name}: {value:.3f}" for name, value in quality(arguments.kind, net, TEST_SCENES).items()), sep="\n")


if __name__ == "__main__":
    main()
