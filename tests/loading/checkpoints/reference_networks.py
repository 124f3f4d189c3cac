"""The publishers' networks on their own keys, written from their descriptions, independently of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own short name
from torch import Tensor

State = Mapping[str, Tensor]
Activation = Callable[[Tensor], Tensor]

SMALL_STRIDES = (2, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)
MOBILENET_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def norm(state: State, path: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean, var = state[f"{path}.running_mean"], state[f"{path}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{path}.weight"], state[f"{path}.bias"], eps=eps)


def conv(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1, same: bool = False) -> Tensor:
    kernel = weight.shape[-1]
    if not same or stride == 1:
        return F.conv2d(x, weight, None, stride, kernel // 2, 1, groups)
    height, width = x.shape[2:]
    down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (height, width))
    padded = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return F.conv2d(padded, weight, None, stride, 0, 1, groups)


def unit_paths(state: State, pattern: str) -> list[str]:
    """The module paths before `pattern`, in the order of the file."""
    return list(dict.fromkeys(key.partition(pattern)[0] for key in state if pattern in key))


def shuffle_paper(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def shuffle_megvii(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels // groups, groups, height, width).permute(0, 2, 1, 3, 4).reshape(x.shape)


def megvii_shufflenet(state: State, x: Tensor, groups: int, shuffle: Activation | None = None) -> Tensor:
    x = F.relu(norm(state, "first_conv.1", conv(x, state["first_conv.0.weight"], 2)))
    x = F.max_pool2d(x, 3, 2, 1)
    for unit in range(16):
        main, stride = f"features.{unit}.branch_main", 2 if unit in (0, 4, 12) else 1
        y = conv(x, state[f"{main}_1.0.weight"], groups=groups if unit else 1)
        y = F.relu(norm(state, f"{main}_1.1", y))
        y = conv(y, state[f"{main}_1.3.weight"], stride, groups=y.shape[1])
        y = norm(state, f"{main}_1.4", y)
        y = shuffle(y) if shuffle else shuffle_megvii(y, groups)
        y = norm(state, f"{main}_2.1", conv(y, state[f"{main}_2.0.weight"], groups=groups))
        x = F.relu(x + y) if stride == 1 else torch.cat((F.avg_pool2d(x, 3, 2, 1), F.relu(y)), 1)
    return x.mean((2, 3)) @ state["classifier.0.weight"].T


def shufflenet(
    state: State, x: Tensor, groups: int, stem: tuple[str, str], parts: tuple[tuple[str, str], ...], after: bool
) -> Tensor:
    """The network of pytorchcv (as in the paper), or with `after` of mmpretrain: later shuffle, shortcut first."""
    head = "head.fc" if after else "output"
    (compress, compress_bn), (depthwise, depthwise_bn), (expand, expand_bn) = parts
    x = F.max_pool2d(F.relu(norm(state, stem[1], conv(x, state[f"{stem[0]}.weight"], 2))), 3, 2, 1)
    for number, path in enumerate(unit_paths(state, f".{compress}.")):
        stride = 2 if number in (0, 4, 12) else 1
        y = conv(x, state[f"{path}.{compress}.weight"], groups=groups if number else 1)
        y = F.relu(norm(state, f"{path}.{compress_bn}", y))
        y = y if after else shuffle_paper(y, groups)
        y = norm(state, f"{path}.{depthwise_bn}", conv(y, state[f"{path}.{depthwise}.weight"], stride, y.shape[1]))
        y = shuffle_paper(y, groups) if after else y
        y = norm(state, f"{path}.{expand_bn}", conv(y, state[f"{path}.{expand}.weight"], groups=groups))
        pooled = F.avg_pool2d(x, 3, 2, 1)
        x = F.relu(x + y if stride == 1 else torch.cat((pooled, y) if after else (y, pooled), 1))
    return F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


def pytorchcv_shufflenet(state: State, x: Tensor, groups: int = 3) -> Tensor:
    parts = (("compress_conv1", "compress_bn1"), ("dw_conv2", "dw_bn2"), ("expand_conv3", "expand_bn3"))
    return shufflenet(state, x, groups, ("features.init_block.conv", "features.init_block.bn"), parts, after=False)


def mmpretrain_shufflenet(state: State, x: Tensor, groups: int = 3) -> Tensor:
    names = ("g_conv_1x1_compress", "depthwise_conv3x3_bn", "g_conv_1x1_expand")
    parts = tuple((f"{name}.conv", f"{name}.bn") for name in names)
    return shufflenet(state, x, groups, ("backbone.conv1.conv", "backbone.conv1.bn"), parts, after=True)


def mobilenet(
    state: State, x: Tensor, layers: list[tuple[str, str]], head: str, act: Activation, same: bool, eps: float
) -> Tensor:
    """layers: the paths of convolution and norm: the stem, then alternating depthwise and pointwise."""
    strides = [2] + [stride for depthwise in MOBILENET_STRIDES for stride in (depthwise, 1)]
    for (convolution, batch_norm), stride in zip(layers, strides, strict=True):
        weight = state[f"{convolution}.weight"]
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = act(norm(state, batch_norm, conv(x, weight, stride, groups, same), eps))
    return F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


def timm_mobilenet(state: State, x: Tensor, act: Activation = F.relu6) -> Tensor:
    layers = [("conv_stem", "bn1")]
    for path in unit_paths(state, ".conv_dw."):
        layers += [(f"{path}.conv_dw", f"{path}.bn1"), (f"{path}.conv_pw", f"{path}.bn2")]
    return mobilenet(state, x, layers, "classifier", act, same=False, eps=1e-5)


def pytorchcv_mobilenet(state: State, x: Tensor) -> Tensor:
    layers = [(f"{path}.conv", f"{path}.bn") for path in unit_paths(state, ".conv.")]
    return mobilenet(state, x, layers, "output", F.relu, same=False, eps=1e-5)


def huggingface_mobilenet(state: State, x: Tensor, act: Activation = F.relu6, same: bool = True) -> Tensor:
    layers = [(f"{path}.convolution", f"{path}.normalization") for path in unit_paths(state, ".convolution.")]
    return mobilenet(state, x, layers, "classifier", act, same, eps=1e-3)


def mixed(state: State, path: str, x: Tensor, stride: int = 1, depthwise: bool = False, same: bool = False) -> Tensor:
    """One convolution, or several on their parts of the channels, depending on the keys."""
    if f"{path}.weight" in state:
        weights = [state[f"{path}.weight"]]
    else:
        weights = [state[key] for key in state if key.startswith(f"{path}.")]
    sizes = [weight.shape[0] if depthwise else weight.shape[1] for weight in weights]
    parts = zip(weights, torch.split(x, sizes, 1), strict=True)
    return torch.cat([conv(part, w, stride, part.shape[1] if depthwise else 1, same) for w, part in parts], 1)


def squeeze_excite(state: State, reduce: str, expand: str, x: Tensor) -> Tensor:
    reduced = F.conv2d(x.mean((2, 3), keepdim=True), state[f"{reduce}.weight"], state[f"{reduce}.bias"])
    return x * F.conv2d(F.silu(reduced), state[f"{expand}.weight"], state[f"{expand}.bias"]).sigmoid()


def mixnet(
    state: State, x: Tensor, first: dict[str, str], blocks: list[str], parts: tuple[str, ...], same: bool
) -> Tensor:
    """MixNet-S. first: module paths outside of `blocks`. parts: those inside a block, in the order of the file."""
    eps = 1e-3 if same else 1e-5
    pw, bn1, dw, bn2, reduce, expand, pwl, bn3 = parts
    x = F.relu(norm(state, first["bn1"], conv(x, state[first["conv_stem"] + ".weight"], 2, same=same), eps))
    y = conv(x, state[first["conv_dw"] + ".weight"], groups=x.shape[1])
    y = conv(F.relu(norm(state, first["dw_bn"], y, eps)), state[first["conv_pw"] + ".weight"])
    x = x + norm(state, first["pw_bn"], y, eps)
    for path, stride in zip(blocks, SMALL_STRIDES, strict=True):
        act = F.silu if f"{path}.{reduce}.weight" in state else F.relu
        y = act(norm(state, f"{path}.{bn1}", mixed(state, f"{path}.{pw}", x), eps))
        y = act(norm(state, f"{path}.{bn2}", mixed(state, f"{path}.{dw}", y, stride, True, same), eps))
        if act is F.silu:
            y = squeeze_excite(state, f"{path}.{reduce}", f"{path}.{expand}", y)
        y = norm(state, f"{path}.{bn3}", mixed(state, f"{path}.{pwl}", y), eps)
        x = x + y if x.shape == y.shape else y
    x = F.relu(norm(state, first["bn2"], conv(x, state[first["conv_head"] + ".weight"]), eps)).mean((2, 3))
    return F.linear(x, state[first["classifier"] + ".weight"], state[first["classifier"] + ".bias"])


def timm_mixnet_s(state: State, x: Tensor, same: bool = False) -> Tensor:
    block = "blocks.0.0"
    first = {name: name for name in ("conv_stem", "bn1", "conv_head", "bn2", "classifier")}
    first |= {"conv_dw": f"{block}.conv_dw", "dw_bn": f"{block}.bn1"}
    first |= {"conv_pw": f"{block}.conv_pw", "pw_bn": f"{block}.bn2"}
    parts = ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3")
    return mixnet(state, x, first, unit_paths(state, ".conv_pwl."), parts, same)


def pytorchcv_mixnet_s(state: State, x: Tensor) -> Tensor:
    start, end = "features.init_block", "features.final_block"
    first = {"conv_stem": f"{start}.conv1.conv", "bn1": f"{start}.conv1.bn", "classifier": "output"}
    first |= {"conv_dw": f"{start}.conv2.conv1.conv", "dw_bn": f"{start}.conv2.conv1.bn"}
    first |= {"conv_pw": f"{start}.conv2.conv2.conv", "pw_bn": f"{start}.conv2.conv2.bn"}
    first |= {"conv_head": f"{end}.conv", "bn2": f"{end}.bn"}
    parts = ("exp_conv.conv", "exp_conv.bn", "conv1.conv", "conv1.bn", "se.conv1", "se.conv2", "conv2.conv", "conv2.bn")
    return mixnet(state, x, first, unit_paths(state, ".exp_conv."), parts, same=False)


def squeezenet(state: State, x: Tensor, pool_before: tuple[int, ...], bypass: bool = False) -> Tensor:
    """Any SqueezeNet; the values of `state` are weights and biases in the order of their use."""
    weights = list(state.values())
    pairs = [(weights[i], weights[i + 1]) for i in range(0, len(weights), 2)]
    x = F.relu(F.conv2d(x, *pairs[0], stride=2))
    for fire in range(8):
        if fire in pool_before:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        squeeze, one, three = pairs[1 + 3 * fire : 4 + 3 * fire]
        squeezed = F.relu(F.conv2d(x, *squeeze))
        y = torch.cat((F.relu(F.conv2d(squeezed, *one)), F.relu(F.conv2d(squeezed, *three, padding=1))), 1)
        x = x + y if bypass and fire in (1, 3, 5, 7) else y
    return F.relu(F.conv2d(x, *pairs[-1])).mean((2, 3))
