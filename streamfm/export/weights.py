"""weights.safetensors: the weights that are served, and what fine-tuning goes on from.

Served weights bear the names that they have in the model: `table`, `bias`, `deep.0.weight`, ... What else belongs to
the training state stands behind `training.`: `training.raw.table`, `training.moment1.table`, `training.row_count`, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from streamfm.model import DeepFM

Arrays = Mapping[str, NDArray[Any]]

_SERVED, _TRAINING = "served.", "training."


def served_weights(model: DeepFM) -> dict[str, NDArray[Any]]:
    """A model's weights and batch-norm statistics as arrays, by the names they have in it."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def write_weights(path: Path, model: DeepFM, state: Arrays | None = None) -> None:
    """Write a model's weights and the state of its training.

    Args:
        path: The new file.
        model: Has the served weights.
        state: `TrainReport.state`; its own copy of the served weights (`served.*`) is not written a second time.
    """
    rest = {} if state is None else {name: array for name, array in state.items() if not name.startswith(_SERVED)}
    arrays = served_weights(model) | {_TRAINING + name: array for name, array in rest.items()}
    path.touch()
    mode = path.stat().st_mode
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)
    # safetensors lets the owner alone read its files; a server may run as somebody else.
    path.chmod(mode)


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """The training state in a file of `write_weights`, as `training.fit` takes it: `served.*` and the rest.

    It is for fine-tuning a published version; training anew needs none.
    """
    return {
        name.removeprefix(_TRAINING) if name.startswith(_TRAINING) else _SERVED + name: array
        for name, array in load_file(path).items()
    }
