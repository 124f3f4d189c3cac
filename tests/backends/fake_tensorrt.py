"""A TensorRT that builds nothing, with exactly the names that a release has: a call that a release lacks fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NAMES: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "trt_api_names.json").read_text())
FULL = ("tensorrt-10.3.0", "tensorrt-10.13.0.35", "tensorrt-10.16.1.11", "tensorrt-11.4.0.106")
RTX = "tensorrt_rtx-1.7.1.116"


class Strict:
    """An object with the members of a class of a release; reading or setting any other one fails."""

    _of: tuple[str, str]

    def __init__(self, release: str, kind: str, **members: Any) -> None:
        object.__setattr__(self, "_of", (release, kind))
        for name, value in members.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        release, kind = self._of
        if name not in NAMES[release][kind]:
            raise AttributeError(f"{kind} of {release} has no {name}")
        object.__setattr__(self, name, value)


class FakeTensorRT:
    """The module of a release; `calls` are what a build did with its configuration, in order.

    `messages` are logged by the build, with a severity each, and `works` says whether it returns an engine. A timing
    cache is used if it begins with `known`; the build adds its own name to it.
    """

    def __init__(
        self,
        release: str,
        *,
        messages: tuple[tuple[str, str], ...] = (),
        works: bool = True,
        known: bytes = b"kept",
        refused_profile: bool = False,
    ) -> None:
        self.release, self.messages, self.works, self.known = release, messages, works, known
        self.refused_profile = refused_profile
        self.calls: list[tuple[Any, ...]] = []
        self.cache = b""
        self.profiles: list[dict[str, Any]] = []
        self.config: Any = None
        self.logger: Any = None
        severities = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
        self.Severity = SimpleNamespace(**{name: Severity(name, value) for name, value in severities.items()})
        self.ILogger = type("ILogger", (), {"Severity": self.Severity, "__init__": lambda _: None})
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda _: None})

    def __getattr__(self, name: str) -> Any:
        """An enumeration of the release; its members are their own names."""
        if name not in NAMES[self.release]:
            raise AttributeError(f"{self.release} has no {name}")
        return Strict(self.release, name, **{each: each for each in NAMES[self.release][name]})

    @property
    def NetworkDefinitionCreationFlag(self) -> Any:  # noqa: N802
        return SimpleNamespace(STRONGLY_TYPED=0)

    @property
    def DataType(self) -> Any:  # noqa: N802
        return SimpleNamespace(HALF="half", BF16="bf16")

    def Builder(self, logger: Any) -> Strict:  # noqa: N802
        self.logger = logger
        return Strict(
            *(self.release, "Builder"),
            create_network=lambda flags: self._network(),
            create_builder_config=self._config,
            create_optimization_profile=self._profile,
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Strict:  # noqa: N802
        return Strict(self.release, "OnnxParser", parse=lambda graph: True)

    def _network(self) -> Strict:
        shape = SimpleNamespace(shape=(-1, 3, -1, -1))
        return Strict(self.release, "INetworkDefinition", num_layers=0, get_input=lambda index: shape)

    def _profile(self) -> Strict:
        self.profiles.append({})
        return Strict(self.release, "IOptimizationProfile", set_shape=self._set_shape)

    def _set_shape(self, name: str, *shapes: list[int]) -> None:
        self.profiles[-1][name] = shapes

    def _config(self) -> Strict:
        config = Strict(
            *(self.release, "IBuilderConfig"),
            add_optimization_profile=lambda profile: -1 if self.refused_profile else len(self.profiles) - 1,
            set_memory_pool_limit=lambda pool, size: self.calls.append(("pool", pool, size)),
            create_timing_cache=self._create_cache,
            set_timing_cache=self._set_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: self.cache),
            set_flag=lambda flag: self.calls.append(("flag", flag)),
        )
        self.config = config
        return config

    def _create_cache(self, content: bytes) -> bytes:
        self.calls.append(("cache", content))
        return content

    def _set_cache(self, content: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        is_known = not content or content.startswith(self.known)
        self.cache = content if is_known else self.cache
        return is_known

    def _build(self, network: Any, config: Any) -> bytes | None:
        for severity, message in self.messages:
            self.logger.log(getattr(self.Severity, severity), message)
        self.cache = self.cache or self.known
        return b"engine" if self.works else None


class Severity(int):
    """A severity of a message, with its name."""

    name: str

    def __new__(cls, name: str, value: int) -> Severity:
        made = super().__new__(cls, value)
        made.name = name
        return made
