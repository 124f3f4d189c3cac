"""An engine of a release that computes by ONNX Runtime, with exactly the names of that release and its profiles."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.backends.fake_tensorrt import NAMES, Strict

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # the smallest, typical and largest of a profile
Fault = Callable[[int, np.ndarray], np.ndarray]  # of an output, by the profile that is current


def sound(profile: int, output: np.ndarray) -> np.ndarray:
    return output


class FakeEngine:
    """The module of a release whose engine runs a graph of one input, only at the shapes of its profiles."""

    def __init__(self, release: str, graph: bytes, profiles: Sequence[Shapes], fault: Fault = sound) -> None:
        self.release, self.profiles, self.fault = release, profiles, fault
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.address: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.profile = 0
        self.ran: set[tuple[int, tuple[int, ...]]] = set()  # profile and shape of each run
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})

    @property
    def TensorIOMode(self) -> Strict:  # noqa: N802
        return Strict(self.release, "TensorIOMode", **{name: name for name in NAMES[self.release]["TensorIOMode"]})

    def nptype(self, dtype: str) -> type:
        return np.float32

    def Runtime(self, logger: object) -> Strict:  # noqa: N802
        return Strict(self.release, "Runtime", deserialize_cuda_engine=lambda plan: self._engine())

    def _engine(self) -> Strict:
        return Strict(
            *(self.release, "ICudaEngine"),
            num_io_tensors=2,
            num_optimization_profiles=len(self.profiles),
            get_tensor_name=lambda index: (self.input, self.output)[index],
            get_tensor_mode=lambda name: "INPUT" if name == self.input else "OUTPUT",
            get_tensor_dtype=lambda name: "float",
            get_tensor_profile_shape=lambda name, index: self.profiles[index],
            create_execution_context=self._context,
        )

    def _context(self) -> Strict:
        return Strict(
            *(self.release, "IExecutionContext"),
            set_optimization_profile_async=self._select,
            set_input_shape=self._accepts,
            get_tensor_shape=lambda name: self._answer(np.zeros(self.shape, np.float32)).shape,
            set_tensor_address=lambda name, address: not self.address.update({name: address}),
            execute_async_v3=self._run,
        )

    def _run(self, stream: int) -> bool:
        self.compute()
        return True

    def _select(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def _accepts(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        least, _, most = self.profiles[self.profile]
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def _answer(self, values: np.ndarray) -> np.ndarray:
        (answer,) = self.session.run([self.output], {self.input: values})
        return np.asarray(answer)

    def compute(self) -> None:
        """Runs the graph on the memory whose addresses were set."""
        self.ran.add((self.profile, self.shape))
        answer = self.fault(self.profile, self._answer(self._memory(self.input, self.shape)))
        self._memory(self.output, answer.shape)[:] = answer

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.address[name])).reshape(shape)


def profile_shapes(
    shape: Sequence[int | str], free: Mapping[str, Any], profiles: Sequence[Mapping[str, Any]]
) -> tuple[Shapes, ...]:
    """The shapes of each profile for an input of that shape."""
    ends = ("smallest", "typical", "largest")
    made = []
    for profile in profiles or ({},):
        sizes = {**free, **profile}
        shapes = [tuple(getattr(sizes[s], end) if isinstance(s, str) else s for s in shape) for end in ends]
        made.append((shapes[0], shapes[1], shapes[2]))
    return tuple(made)


def libraries(engine: FakeEngine, cuda: Any) -> Callable[[str], Any]:
    """What `tensorrt.library` returns for each name."""
    return lambda name: cuda if name.startswith("cuda") else engine


GPU = SimpleNamespace(name="a GPU", capability="8.7")
