"""A model as SQL functions of a DuckDB connection.

    register(con, "models/ctr@champion")
    SELECT deepfm_score(user_id := 'u1', app_id := 'a7');
    SELECT *, deepfm_score(e) AS p FROM events e ORDER BY p DESC LIMIT 10;

What a query calls are macros; they call functions that belong to one version for good. Another version means other
functions and the macros replaced in one transaction, so that a query, which is bound once, is answered by one version.
Functions are never removed: a half-read result would then read freed memory.
"""

from __future__ import annotations

import atexit
import datetime as dt
import itertools
import logging
import re
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from streamfm.errors import DataError, StreamFMError
from streamfm.expressions import expressions_of
from streamfm.registry import resolve
from streamfm.scoring import MODEL_FILES, Precision, Scorer, load
from udfs.duckdb_functions import EXPLANATION_SQL, Functions, Serving
from udfs.duckdb_generations import Generation, hold, is_called, let_go, mark_replaced
from udfs.duckdb_macros import MODELS, drop_statements, macro_names, statements
from udfs.duckdb_place import Place
from udfs.duckdb_types import arguments_of

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}")

# One registration at a time: two would conflict in DuckDB's catalog.
_lock = threading.Lock()
_serials = itertools.count(1)


def register(
    con: duckdb.DuckDBPyConnection,
    reference: str | Path | Scorer,
    name: str = "deepfm",
    *,
    precision: Precision = "fp32",
    temporary: bool | None = None,
) -> Registration:
    """The registration of a model in the database of `con`, under `deepfm_score`, `_logit`, `_explain`, `_embedding`.

    All cursors of the database see them, and `deepfm_models()`. Registering a name again replaces it. A query is
    answered by one version; the reference (an alias, say) is resolved now, and again only by `refresh` or `watch`.

    Args:
        con: A connection outside of a transaction, with no half-read result.
        reference: ``models/ctr@champion``, ``models/ctr/3``, a bundle's path, or a Scorer.
        name: What the functions' names begin with.
        precision: ``fp32`` or ``int8``; of a Scorer, its own counts.
        temporary: Whether the macros are the connection's own, which cursors do not see, rather than the database's,
            in whose file they stay (a call after reopening fails until it is registered again). None: only where the
            database is read-only.

    Raises:
        StreamFMError: `con` is in a transaction or has a half-read result.
        BundleError: The bundle was refused; what was registered before goes on serving.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"name {name!r} cannot begin a function's name", hint="letters, digits and _, at most 48")
    place = Place.of(con, temporary=temporary)
    is_scorer = isinstance(reference, Scorer)
    scorer = reference if isinstance(reference, Scorer) else load(reference, precision=precision, threads=1)
    registration = Registration(place, name, None if is_scorer else str(reference), scorer.precision)
    registration._serve(scorer)
    return registration


class Registration:
    """A model's functions in a database. Its methods may be called from any thread.

    Attributes:
        name: What the functions' names begin with.
        reference: What is followed; None when a Scorer was given.
        precision: ``fp32`` or ``int8``.
        last_error: Why the last attempt to move on was refused, or None.
    """

    def __init__(self, place: Place, name: str, reference: str | None, precision: Precision) -> None:
        """Call `register` instead."""
        self.name, self.reference, self.precision = name, reference, precision
        self.last_error: Exception | None = None
        self._place = place
        # A program may change its working directory; what is followed stays where it was.
        self._followed = None if reference is None else Path(reference).absolute()
        self._functions: Functions | None = None
        self._function = ""
        self._moving = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def scorer(self) -> Scorer:
        """The version that new queries ask."""
        if self._functions is None:
            raise StreamFMError(f"{self.name}: nothing is registered yet")
        return self._functions.serving.scorer()

    def refresh(self) -> bool:
        """Resolve the reference again and move on to the version that it names; whether it is another one.

        The version is loaded, verified and warmed up first. Queries that run keep theirs.

        Raises:
            StreamFMError: The version was refused, or the functions are no longer this registration's; what was
                serving goes on.
        """
        with self._noting_errors(), self._moving:
            return self._move()

    def watch(self, interval_s: float = 30.0) -> Registration:
        """Follow the reference in the background: `refresh` every `interval_s` seconds, until `stop`; returns itself.

        A version that is refused is logged, and leaves the one before it serving.

        Raises:
            DataError: There is nothing to follow: a Scorer was registered; or the interval is not above 0.
        """
        if not interval_s > 0:
            raise DataError(f"interval_s is {interval_s}, expected more than 0")
        if self.reference is None:
            raise DataError("a Scorer never changes", hint="register a reference such as models/ctr@champion")
        self.stop()
        self._stop = threading.Event()
        arguments = (self, self._stop, interval_s)
        self._watcher = threading.Thread(target=_follow, args=arguments, name=f"{self.name}-watch", daemon=True)
        self._watcher.start()
        _watching.add(self)
        return self

    def stop(self) -> None:
        """Stop following; what is serving goes on."""
        self._stop.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        self._watcher = None

    def close(self) -> None:
        """Stop following, and take the macros away, unless another registration has replaced them.

        Of a connection that is closed or gone there is nothing to take away.
        """
        self.stop()
        with self._moving, _lock:
            if self._place.is_open() and self._is_current():
                self._place.run(drop_statements(self.name, self._place))
        self._free()

    def _move(self) -> bool:
        if self._followed is None:
            return False
        self._free()
        if not self._is_current():
            raise StreamFMError(f"{self.name}: its functions were replaced or dropped", hint="register it again")
        if not self._is_behind():
            return False
        self._serve(load(self._followed, precision=self.precision, threads=1))
        return True

    def _keep_up(self) -> None:
        """As `refresh`, but the database is left alone until there is something to do in it."""
        with self._noting_errors(), self._moving:
            if self._is_behind():
                self._move()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except (StreamFMError, duckdb.Error) as error:
            self.last_error = error
            raise
        self.last_error = None

    def _is_behind(self) -> bool:
        """Whether the reference names another version than the one that serves; asks no database."""
        return self._followed is not None and resolve(self._followed).path != self.scorer.bundle.path.absolute()

    def _serve(self, scorer: Scorer) -> None:
        """Make functions of the scorer, then let the macros call them."""
        if not scorer.spec.inputs:
            raise DataError(f"{self.name}: the model has no inputs", hint="declare the raw columns under [inputs]")
        expressions = expressions_of(scorer.spec)
        arguments = arguments_of(scorer.spec, expressions)
        bundle, precision = scorer.bundle.path.absolute(), self.precision
        reload = None if self.reference is None else lambda: load(bundle, precision=precision, threads=1)
        functions = Functions(Serving(scorer, reload), arguments, list(expressions))
        with _lock:
            names = self._create(functions)
            about = self._about(scorer, names["score"])
            self._place.run(statements(self.name, self._place, scorer.spec, expressions, arguments, names, about))
        if self._functions is not None:
            logger.info("%s: moved to %s", self.name, bundle)
        self._functions, self._function = functions, names["score"]
        hold(Generation(self._place, self.name, self._function, functions.serving))
        self._free()

    def _free(self) -> None:
        now_s = time.monotonic()
        mark_replaced(self._place, now_s)
        let_go(now_s)

    def _create(self, functions: Functions) -> dict[str, str]:
        """The functions created under names that no others bear, by what they do."""
        manifest = functions.serving.scorer().bundle.manifest
        results = {
            "score": "FLOAT",
            "logit": "FLOAT",
            "explain": EXPLANATION_SQL,
            "embedding": f"FLOAT[{manifest.layout.factors}]",
            "is_row": "BOOLEAN",
            "read_as": "VARCHAR",
            "has_feature": "BOOLEAN",
        }
        # Macros in a file outlive the process: the mark keeps a stale one from calling another model's function.
        number, mark = next(_serials), manifest.files[MODEL_FILES[self.precision]].sha256[:8]
        names = {what: f"__{self.name}_{what}_{number}_{mark}" for what in results}
        for what, result in results.items():
            self._place.create_function(names[what], getattr(functions, what), result)
        return names

    def _about(self, scorer: Scorer, function: str) -> dict[str, object]:
        """What `deepfm_models()` tells."""
        manifest = scorer.bundle.manifest
        return {
            "name": self.name,
            "model": scorer.name,
            "version": scorer.version,
            "task": manifest.task,
            "precision": self.precision,
            "reference": self.reference or str(scorer.bundle.path),
            "bundle": str(scorer.bundle.path),
            "registered_at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "fingerprint": manifest.spec_fingerprint,
            "functions": [*macro_names(self.name).values(), MODELS],
            "function": function,
            "metrics": {rows: _figures(measured) for rows, measured in manifest.metrics.items()},
        }

    def _is_current(self) -> bool:
        """Whether the macros in the database are still the ones that this registration made."""
        return is_called(self._place, self.name, self._function, self._place)


def _figures(measured: object) -> object:
    """The measures' values of an evaluation as the manifest has it; anything else as it is."""
    if isinstance(measured, Mapping) and isinstance(measures := measured.get("measures"), Mapping):
        return {name: measure["value"] for name, measure in measures.items()}
    return measured


_watching: weakref.WeakSet[Registration] = weakref.WeakSet()


@atexit.register
def _stop_watchers() -> None:
    for registration in list(_watching):
        registration.stop()


def _follow(registration: Registration, stop: threading.Event, interval_s: float) -> None:
    told = ""
    while not stop.wait(interval_s) and registration._place.connection() is not None:
        let_go(time.monotonic())
        try:
            registration._keep_up()
            told = ""
        except (StreamFMError, duckdb.Error) as error:
            if told != str(error):
                told = str(error)
                logger.warning("%s: not moved on: %s", registration.name, told)
