"""Factories of models in wrappers (torch.compile, DataParallel), with scripted submodules, or that raise errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, part: Any = None) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.part = part or nn.ReLU()
        self.name = nn.Linear(16, 4)

    def forward(self, vector: Tensor) -> Any:
        return self.name(self.part(self.first(vector)))


class Compiled(Net):
    @torch.compile(backend="eager")
    def forward(self, vector: Tensor) -> Any:
        return super().forward(vector)


class NoReturn(Net):
    """Its train() returns nothing."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)


def _compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def bare() -> nn.Module:
    return Net()


def compiled() -> Any:
    return _compiled(Net())


def compiled_in_place() -> nn.Module:
    module = Net()
    module.compile(backend="eager")
    return module


def compiled_part() -> nn.Module:
    return Net(_compiled(nn.Sequential(nn.ReLU(), nn.Linear(16, 16))))


def compiled_in_a_list() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.Sequential(_compiled(nn.Linear(16, 4))))


def compiled_forward() -> nn.Module:
    return Compiled()


def parallel() -> nn.Module:
    return nn.DataParallel(Net())


def parallel_and_compiled() -> Any:
    return _compiled(nn.DataParallel(Net()))


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(Net())


def no_return() -> nn.Module:
    return NoReturn()


def scripted_part() -> nn.Module:
    return Net(torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.ReLU())))


def traced_deep_inside() -> nn.Module:
    traced: Any = torch.jit.trace(nn.Linear(16, 16), torch.ones(2, 16))  # type: ignore[no-untyped-call]  # torch.jit has no types
    return Net(nn.Sequential(nn.ReLU(), nn.ModuleDict({"deep": nn.Identity()})["deep"], traced))


class _Lines(Exception):
    def __str__(self) -> str:
        return "first\nsecond\n\tthird"


class _Unreadable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def _group() -> Exception:
    try:
        return ExceptionGroup("two", [ValueError("inner"), KeyError("x")])
    except NameError:
        return ValueError("two: ValueError: inner")


class _OfTheBase(BaseException):
    pass


ERRORS: dict[str, Any] = {
    "value": lambda: ValueError("wrong"),
    "key": lambda: KeyError("x"),
    "empty": lambda: ValueError(),
    "lines": lambda: _Lines(),
    "unreadable": lambda: _Unreadable(),
    "exit": lambda: SystemExit("usage: net.py"),
    "assertion": lambda: AssertionError(),
    "memory": lambda: MemoryError(),
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "stop": lambda: StopIteration(3),
    "file": lambda: FileNotFoundError(2, "No such file or directory", "best.pt"),
    "group": _group,
    "warning": lambda: UserWarning("careful"),
    "colours": lambda: ValueError("\x1b[31mred\x1b[0m \x07bell \u202eturned\u2066 réseau 网络 \x1b]0;title\x07"),
    "long": lambda: ValueError("x" * 5000),
    "base": lambda: _OfTheBase("of the base"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "surrogate": lambda: ValueError("\udcff"),
}


class Raising(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.name = kind, nn.Linear(16, 4)

    def forward(self, vector: Tensor) -> Any:
        if self.kind == "recursion":
            return self.forward(vector)
        raise ERRORS[self.kind]()


def failing(kind: str) -> nn.Module:
    if kind == "recursion":
        return failing(kind)
    raise ERRORS[kind]()


def raising(kind: str) -> nn.Module:
    return Raising(kind)


def interrupted() -> nn.Module:
    raise KeyboardInterrupt
