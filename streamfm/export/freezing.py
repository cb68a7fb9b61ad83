"""From torch to plain arrays: what a trained model weighs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from streamfm.errors import ParityError
from streamfm.export.network import BatchNorm, Dense, Network, Task, folded
from streamfm.model import DeepFM

Floats = NDArray[np.float32]


def freeze(model: DeepFM, task: Task) -> Network:
    """A model's weights as plain arrays, batch norm folded into the layer before it.

    Raises:
        ParityError: A weight is not a finite number; names all such.
    """
    layers: list[Dense] = []
    for module in model.deep or ():
        if isinstance(module, nn.Linear):
            layers.append(Dense(weight=_array(module.weight).T, bias=_array(module.bias)))
        elif isinstance(module, nn.BatchNorm1d):
            layers[-1] = folded(layers[-1], _batch_norm(module))
    network = Network(
        layout=model.layout,
        task=task,
        table=_array(model.table),
        bias=float(_array(model.bias)[0]),
        layers=tuple(layers),
    )
    _check_finite(network)
    return network


def _batch_norm(module: nn.BatchNorm1d) -> BatchNorm:
    arrays = {name: _array(tensor) for name, tensor in module.state_dict().items()}
    return BatchNorm(
        mean=arrays["running_mean"],
        variance=arrays["running_var"],
        scale=arrays["weight"],
        shift=arrays["bias"],
        epsilon=module.eps,
    )


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().float().numpy()
    return array


def _check_finite(network: Network) -> None:
    arrays = {"table": network.table, "bias": np.array([network.bias])}
    for number, layer in enumerate(network.layers, start=1):
        arrays |= {f"weight of deep layer {number}": layer.weight, f"bias of deep layer {number}": layer.bias}
    wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if wrong:
        raise ParityError(
            f"the trained model has numbers that are not finite in its {', '.join(wrong)}",
            hint="training diverged: lower the learning rate, or tame numeric features by log1p or quantile",
        )
