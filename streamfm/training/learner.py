"""One training step, and the weights it moves: raw ones, their average, the optimisers' moments."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamfm.data.batches import Batch
from streamfm.encoder import Layout
from streamfm.errors import DataError
from streamfm.model import DeepFM
from streamfm.settings import DENSE_TABLE_NUMBERS, TrainSettings
from streamfm.training.table_optimiser import BETA_1, BETA_2, EPSILON, TableOptimiser, YoungRows

Arrays = dict[str, NDArray[Any]]


class Learner:
    """Trains a model step by step.

    Attributes:
        model: Has the raw weights.
        served: Has their average; the same object as `model` without averaging. Call `settle` before using it.
        steps: Steps made, those of an earlier run included.
    """

    def __init__(
        self,
        model: DeepFM,
        settings: TrainSettings,
        *,
        state: Mapping[str, NDArray[Any]] | None = None,
        young: YoungRows | None = None,
    ) -> None:
        """Take up the model; with a `state` of `TrainReport`, go on where that left off.

        Args:
            model: Trained in place.
            settings: How.
            state: Of an earlier run.
            young: Rows that learn at a rate of their own; None for none.

        Raises:
            DataError: The state is of another model.
        """
        self.model, self.settings = model, settings
        if state is not None:
            _load_weights(model, state, "raw" if "raw.table" in state else "served")
        self.served = copy.deepcopy(model).requires_grad_(False) if settings.average else model
        if state is not None and settings.average:
            _load_weights(self.served, state, "served")
        self.steps = 0
        table = model.table.detach()
        self.table_update: Literal["dense", "lazy"] = _table_update(settings, table.numel())
        self.precision = _precision(settings)
        self._table = TableOptimiser(
            table.numpy(),
            self.served.table.detach().numpy() if settings.average else None,
            lazy=self.table_update == "lazy",
            penalties=(settings.l2_factors, settings.l2_first_order),
            decay=settings.average_decay,
        )
        if young is not None:
            self._table.young = young
        self._rest = {name: weight for name, weight in model.named_parameters() if name != "table"}
        self._adam = _adam(self._rest, settings)
        if state is not None:
            self._resume(state)
        self._averaged = list(_averaged(model, self.served))

    def step(self, batch: Batch, learning_rate: float, *, weight_scale: float = 1.0) -> float:
        """Learn from a batch; gives its mean loss, the penalty not counted.

        Args:
            batch: B rows.
            learning_rate: Adam's.
            weight_scale: Multiplies the sample weights, which should have a mean of 1 over all rows.

        Raises:
            DataError: The loss or the gradient is not finite.
        """
        slots = nn.functional.embedding(torch.from_numpy(batch.ids), self.model.table.detach()).requires_grad_()
        weights = None if batch.weights is None else torch.from_numpy(batch.weights)
        with self._autocast():
            logits = self.model.logits_of(slots, weights).float()
        loss = _loss(logits, batch, self.settings.objective, weight_scale)
        value = loss.item()
        self._require_finite(value, "loss")
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = cast(Tensor, slots.grad).flatten(end_dim=1).numpy()
        self.steps += 1
        squares = self._table.accumulate(batch.ids.reshape(-1), gradients, self.steps)
        self._update(squares, learning_rate)
        return value

    def relay(self, layout: Layout, sources: NDArray[np.intp], fresh: NDArray[np.bool_]) -> None:
        """Lay the table's rows out anew: for vocabularies that grew or shrank.

        Args:
            layout: The new one (R' rows); its fields are those of the old one.
            sources: int [R'], of each new row the old row whose weights it takes, raw and served.
            fresh: bool [R'], the rows that begin with moments of zero, counted and seen never.
        """
        tables = []
        for model in (self.model,) if self.served is self.model else (self.model, self.served):
            model.table.data = torch.from_numpy(model.table.detach().numpy()[sources])
            model.layout = layout
            tables.append(model.table.detach().numpy())
        self._table.relay(tables[0], tables[1] if len(tables) > 1 else None, sources, fresh)

    def settle(self) -> None:
        """Bring `served` up to the last step."""
        self._table.settle(self.steps)

    def arrays(self) -> Arrays:
        """The state as `TrainReport` names it: views that the next step changes."""
        arrays = {f"served.{name}": tensor.numpy() for name, tensor in self.served.state_dict().items()}
        if self.settings.average:
            arrays |= {f"raw.{name}": tensor.numpy() for name, tensor in self.model.state_dict().items()}
        table = self._table
        arrays |= {"moment1.table": table.moment1, "moment2.table": table.moment2}
        for name, weight in self._rest.items():
            moments = self._adam.state[weight]
            arrays[f"moment1.{name}"] = moments["exp_avg"].numpy()
            arrays[f"moment2.{name}"] = moments["exp_avg_sq"].numpy()
        return arrays | {
            "row_count": table.counts,
            "row_last_step": table.last_seen,
            "step": np.array([self.steps], np.int64),
        }

    def _update(self, table_squares: float, learning_rate: float) -> None:
        gradients = [weight.grad for weight in self._rest.values() if weight.grad is not None]
        norm = math.sqrt(table_squares + float(nn.utils.get_total_norm(gradients)) ** 2)
        self._require_finite(norm, "gradient")
        limit = self.settings.gradient_norm
        scale = limit / norm if 0 < limit < norm else 1.0
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        self._table.apply(learning_rate, scale, self.steps)
        rest = 1 - self._table.decay.at(self.steps)
        with torch.no_grad():
            for average, weight in self._averaged:
                average.lerp_(weight, rest)

    def _resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        try:
            self.steps = int(state["step"][0])
            for name, weight in self._rest.items():
                first, second = (torch.from_numpy(np.array(state[f"{kind}.{name}"])) for kind in ("moment1", "moment2"))
                self._adam.state[weight] = {
                    "step": torch.tensor(float(self.steps)),
                    "exp_avg": first,
                    "exp_avg_sq": second,
                }
            self._table.moment1[:] = state["moment1.table"]
            self._table.moment2[:] = state["moment2.table"]
            self._table.counts[:] = state["row_count"]
            self._table.last_seen[:] = state["row_last_step"]
        except (KeyError, ValueError) as error:
            raise DataError(f"the training state does not fit the model: {error}") from error
        self._table.resume(self.steps)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            hint = "lower learning_rate, or give numeric features a transform such as 'standard' or 'log1p'"
            raise DataError(f"training diverged: the {what} of step {self.steps + 1} is {value}", hint=hint)


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Lets torch use so many threads meanwhile; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loss(logits: Tensor, batch: Batch, objective: str, weight_scale: float) -> Tensor:
    labels = torch.from_numpy(batch.labels)
    weights = None if batch.sample_weights is None else torch.from_numpy(batch.sample_weights) * weight_scale
    if objective == "binary":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, weights)
    squares = (logits - labels).square()
    return (squares if weights is None else squares * weights).mean()


def _load_weights(model: DeepFM, state: Mapping[str, NDArray[Any]], kind: str) -> None:
    prefix = f"{kind}."
    weights = {
        name.removeprefix(prefix): torch.from_numpy(np.array(array))
        for name, array in state.items()
        if name.startswith(prefix)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"the training state does not fit the model: {error}") from error


def _averaged(model: DeepFM, served: DeepFM) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (average, weight) of all but the table, batch norm's statistics included."""
    if served is model:
        return
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    averages = dict(served.named_parameters()) | dict(served.named_buffers())
    for name, weight in weights.items():
        if name != "table" and weight.is_floating_point():
            yield averages[name], weight


def _adam(weights: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.Adam:
    linear = [weight for weight in weights.values() if weight.ndim == 2]
    other = [weight for weight in weights.values() if weight.ndim != 2]
    groups: list[dict[str, Any]] = [{"params": other}]
    if linear:
        groups.append({"params": linear, "weight_decay": settings.l2_deep})
    return torch.optim.Adam(groups, lr=settings.learning_rate, betas=(BETA_1, BETA_2), eps=EPSILON, fused=True)


def _table_update(settings: TrainSettings, numbers: int) -> Literal["dense", "lazy"]:
    if settings.table_update != "auto":
        return settings.table_update
    return "dense" if numbers <= DENSE_TABLE_NUMBERS else "lazy"


def _precision(settings: TrainSettings) -> Literal["float32", "bfloat16"]:
    if settings.precision != "auto":
        return settings.precision
    abilities = torch.cpu.get_capabilities()
    return "bfloat16" if any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"
