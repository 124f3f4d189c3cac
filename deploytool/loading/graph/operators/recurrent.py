"""LSTM, GRU and RNN in all their forms.

The usual forms are one call of torch's own. Others (peepholes, clipping, own activations, sequence lengths) are
computed step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator

Activation = Callable[[torch.Tensor], torch.Tensor]
State = tuple[torch.Tensor, ...]
_PARAMETERS: Mapping[str, tuple[float, float]] = {  # default alpha and beta of activations that have them
    "affine": (1.0, 0.0),
    "elu": (1.0, 0.0),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, 0.0),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0, 0.0),
}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
_TORCH_ORDER: Mapping[str, tuple[int, ...]] = {
    "LSTM": (0, 2, 3, 1),
    "GRU": (1, 0, 2),
}  # gates of ONNX as torch has them


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a recurrent node with the sequence first, an omitted one as None."""

    x: torch.Tensor
    w: torch.Tensor
    r: torch.Tensor
    bias: torch.Tensor | None
    lengths: torch.Tensor | None
    states: tuple[torch.Tensor, ...]
    peepholes: torch.Tensor | None

    @classmethod
    def of(cls, op: Op, inputs: Sequence[torch.Tensor | None]) -> _Inputs:
        """The inputs by name; missing states are zero."""
        x, w, r, bias, lengths, h, c, peepholes = (*inputs, *[None] * 8)[:8]
        assert x is not None
        assert w is not None
        assert r is not None
        batch_first = op.integer("layout") == 1
        x = x.transpose(0, 1) if batch_first else x
        given = [h, c] if op.node.op_type == "LSTM" else [h]
        zero = torch.zeros((w.shape[0], x.shape[1], r.shape[2]), dtype=x.dtype, device=x.device)
        states = [zero if each is None else each.transpose(0, 1) if batch_first else each for each in given]
        return cls(x, w, r, bias, lengths, tuple(states), peepholes)


def _recurrent(op: Op, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """All outputs: those of every step, then the last state of each kind."""
    given = _Inputs.of(op, inputs)
    steps, last = _by_torch(op, given) if _is_usual(op, given) else _step_by_step(op, given)
    if op.integer("layout") == 1:
        return (steps.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last))
    return (steps, *last)


def _is_usual(op: Op, given: _Inputs) -> bool:
    """Whether torch has this form."""
    kind, directions = op.node.op_type, given.w.shape[0]
    usual = [name.lower() for name in _ACTIVATIONS.get(kind, ()) * directions]
    names = [name.lower() for name in op.texts("activations")] or usual
    lengths = given.lengths is None or bool((given.lengths == given.x.shape[0]).all())
    plain = not op.has("clip") and not op.flag("input_forget") and given.peepholes is None and lengths
    gru = kind == "GRU" and op.flag("linear_before_reset")
    return plain and names == usual and (kind == "LSTM" or gru) and given.x.is_floating_point()


def _by_torch(op: Op, given: _Inputs) -> tuple[torch.Tensor, State]:
    kind, directions, (length, batch, _) = op.node.op_type, given.w.shape[0], given.x.shape
    backward = op.text("direction", "forward") == "reverse"
    weights = []
    for number in range(directions):
        weights += [_reordered(part[number], kind) for part in (given.w, given.r)]
        if given.bias is not None:
            weights += [_reordered(part, kind) for part in given.bias[number].chunk(2)]
    x = given.x.flip(0) if backward else given.x
    options = (given.bias is not None, 1, 0.0, False, directions == 2, False)
    if kind == "LSTM":
        steps, *last = torch.lstm(x, given.states, weights, *options)
    else:
        steps, *last = torch.gru(x, given.states[0], weights, *options)
    steps = steps.flip(0) if backward else steps
    return steps.reshape(length, batch, directions, -1).transpose(1, 2), tuple(last)


def _reordered(part: torch.Tensor, kind: str) -> torch.Tensor:
    """The rows of all gates in torch's order."""
    gates = part.chunk(_GATES[kind])
    return torch.cat([gates[number] for number in _TORCH_ORDER[kind]])


def _step_by_step(op: Op, given: _Inputs) -> tuple[torch.Tensor, State]:
    directions, kind = given.w.shape[0], op.node.op_type
    outputs, lasts = [], []
    for number in range(directions):
        reverse = number == 1 or op.text("direction", "forward") == "reverse"
        cell = _CELLS[kind](op, given, number)
        output, last = _run(cell, given, number, reverse=reverse)
        outputs.append(output)
        lasts.append(last)
    return torch.stack(outputs, 1), tuple(torch.stack([last[at] for last in lasts]) for at in range(len(lasts[0])))


def _run(
    cell: Callable[[torch.Tensor, State], State], given: _Inputs, number: int, *, reverse: bool
) -> tuple[torch.Tensor, State]:
    """One direction; a sequence that has ended keeps its state, and its further outputs are zero."""
    length, batch = given.x.shape[:2]
    ends = torch.full((batch,), length) if given.lengths is None else given.lengths
    uniform = bool((ends == length).all())
    state: State = tuple(each[number] for each in given.states)
    outputs: list[torch.Tensor] = [torch.empty(0)] * length
    for turn in reversed(range(length)) if reverse else range(length):
        new = cell(given.x[turn], state)
        if uniform:
            state, outputs[turn] = new, new[0]
            continue
        runs = (turn < ends).view(-1, 1)
        state = tuple(torch.where(runs, after, before) for after, before in zip(new, state, strict=True))
        outputs[turn] = torch.where(runs, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), state


def _activations(op: Op, direction: int) -> list[Activation]:
    """The activations of one direction, behind the clipping that comes before each."""
    kind = op.node.op_type
    count = len(_ACTIVATIONS[kind])
    names = op.texts("activations")[direction * count : (direction + 1) * count] or list(_ACTIVATIONS[kind])
    alphas, betas = op.numbers("activation_alpha"), op.numbers("activation_beta")
    clip = op.number("clip") if op.has("clip") else None
    return [
        partial(_activate, name.lower(), clip, _parameter(alphas, name, at, 0), _parameter(betas, name, at, 1))
        for at, name in enumerate(names, direction * count)
    ]


def _parameter(given: Sequence[float], name: str, at: int, which: int) -> float:
    return given[at] if at < len(given) else _PARAMETERS.get(name.lower(), (1.0, 0.0))[which]


def _activate(name: str, clip: float | None, alpha: float, beta: float, x: torch.Tensor) -> torch.Tensor:
    x = x if clip is None else torch.clamp(x, -clip, clip)
    functions: Mapping[str, Activation] = {
        "affine": lambda x: x * alpha + beta,
        "elu": lambda x: functional.elu(x, alpha),
        "hardsigmoid": lambda x: torch.clamp(x * alpha + beta, 0, 1),
        "leakyrelu": lambda x: functional.leaky_relu(x, alpha),
        "relu": torch.relu,
        "scaledtanh": lambda x: torch.tanh(x * beta) * alpha,
        "sigmoid": torch.sigmoid,
        "softplus": lambda x: functional.softplus(x, threshold=50.0),
        "softsign": functional.softsign,
        "tanh": torch.tanh,
        "thresholdedrelu": lambda x: functional.threshold(x, alpha, 0),
    }
    return functions[name](x)


def _biases(given: _Inputs, number: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if given.bias is None:
        return None, None
    first, second = given.bias[number].chunk(2)
    return first, second


def _lstm_cell(op: Op, given: _Inputs, number: int) -> Callable[[torch.Tensor, State], State]:
    w, r, (w_bias, r_bias) = given.w[number], given.r[number], _biases(given, number)
    f, g, h = _activations(op, number)
    peep = None if given.peepholes is None else given.peepholes[number].chunk(3)  # of input, output and forget gate

    def cell(x: torch.Tensor, state: State) -> State:
        hidden, memory = state
        sums = functional.linear(x, w, w_bias) + functional.linear(hidden, r, r_bias)
        into, out, forget, new = sums.chunk(4, -1)
        gate = f(into if peep is None else into + peep[0] * memory)
        keep = 1 - gate if op.flag("input_forget") else f(forget if peep is None else forget + peep[2] * memory)
        memory = keep * memory + gate * g(new)
        return f(out if peep is None else out + peep[1] * memory) * h(memory), memory

    return cell


def _gru_cell(op: Op, given: _Inputs, number: int) -> Callable[[torch.Tensor, State], State]:
    w, r, (w_bias, r_bias) = given.w[number], given.r[number], _biases(given, number)
    f, g = _activations(op, number)
    size = r.shape[1]

    def cell(x: torch.Tensor, state: State) -> State:
        (hidden,) = state
        update, reset, new = functional.linear(x, w, w_bias).chunk(3, -1)
        gates = functional.linear(hidden, r[: 2 * size], None if r_bias is None else r_bias[: 2 * size])
        update, reset = (f(a + b) for a, b in zip((update, reset), gates.chunk(2, -1), strict=True))
        last_bias = None if r_bias is None else r_bias[2 * size :]
        if op.flag("linear_before_reset"):
            candidate = g(new + reset * functional.linear(hidden, r[2 * size :], last_bias))
        else:
            candidate = g(new + functional.linear(reset * hidden, r[2 * size :], last_bias))
        return ((1 - update) * candidate + update * hidden,)

    return cell


def _rnn_cell(op: Op, given: _Inputs, number: int) -> Callable[[torch.Tensor, State], State]:
    w, r, (w_bias, r_bias) = given.w[number], given.r[number], _biases(given, number)
    (f,) = _activations(op, number)
    return lambda x, state: (f(functional.linear(x, w, w_bias) + functional.linear(state[0], r, r_bias)),)


_CELLS = {"LSTM": _lstm_cell, "GRU": _gru_cell, "RNN": _rnn_cell}
OPERATORS: Mapping[str, Operator] = {"GRU": _recurrent, "LSTM": _recurrent, "RNN": _recurrent}
