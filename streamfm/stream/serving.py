"""Models under way: aliases are watched, and a new version answers from one batch to the next.

A new version is loaded beside the one that serves: every file's checksum is verified, and the network is warmed up.
Only then does it take over. One that is refused leaves the old one serving.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from streamfm.errors import StreamFMError
from streamfm.registry import current
from streamfm.scoring import Precision, Scorer, load
from streamfm.stream.answering import Answering
from streamfm.stream.decoding import JsonDecoder, MakeDecoder
from streamfm.stream.settings import StreamSettings

logger = logging.getLogger(__name__)

RETRY_S = 60.0
"""A version that was refused is tried again after so long: a disk may have been full."""

Reference = str | os.PathLike[str]


class Followed:
    """A reference, and which version of it serves. For one thread at a time.

    Attributes:
        reference: What is followed.
        refusals: How often a version was refused.
    """

    def __init__(self, reference: Reference, load: Callable[[Reference], Scorer], clock: Callable[[], float]) -> None:
        """Follow it; nothing is loaded yet."""
        # A program may change its working directory; what is followed stays where it was.
        self.reference = Path(reference).absolute()
        self.refusals = 0
        self._load, self._clock = load, clock
        self._serving: int | None = None
        self._refused: tuple[int | None, str] | None = None
        self._retry_s = 0.0

    def load(self) -> Scorer:
        """The version that the reference names now.

        Raises:
            RegistryError: No such model, version or alias.
            BundleError: It was refused.
        """
        return self._load(self.reference)

    def newer(self, *, first: bool = False) -> Scorer | None:
        """The version that the reference names now, if it is another one than serves and can be loaded."""
        version: int | None = None
        try:
            version = current(self.reference)
            if version == self._serving and not first:
                self._refused = None
                return None
            if self._refused and version == self._refused[0] and self._clock() < self._retry_s:
                return None
            return self.load()
        # Whatever a bundle on its way can do, the model that serves goes on, and the next try has time.
        except Exception as error:
            self.refuse(version, error)
            return None

    def accept(self, scorer: Scorer) -> None:
        """This version serves from now on."""
        self._serving, self._refused = scorer.version, None

    def refuse(self, version: int | None, error: Exception) -> None:
        """Leave what serves; counted each time, told once."""
        self.refusals += 1
        text, unexpected = (error.message, None) if isinstance(error, StreamFMError) else (repr(error), error)
        if self._refused != (version, text):
            told = "%s: version %s is refused, what served goes on: %s"
            logger.warning(told, self.reference, version, unexpected or error, exc_info=unexpected)
        self._refused, self._retry_s = (version, text), self._clock() + RETRY_S


class ServedModels:
    """The model that answers, and maybe a second one beside it; `refresh` moves both on to what is published.

    Attributes:
        settings: What the loop is told, with the event id that the model's specification has.
        swaps: How often another version took over.
    """

    def __init__(
        self,
        reference: Reference,
        settings: StreamSettings,
        *,
        shadow: Reference | None = None,
        precision: Precision = "fp32",
        threads: int = 1,
        decoder: MakeDecoder = JsonDecoder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the model; a second one that cannot be loaded is left out until it can.

        Args:
            reference: As for `streamfm.load`, like the next three.
            settings: What the loop is told.
            shadow: The second model.
            precision: Of both.
            threads: Of both.
            decoder: How events are read.
            clock: Seconds, from any beginning.

        Raises:
            RegistryError: No such model, version or alias.
            BundleError: The bundle was refused.
            StreamError: The settings do not go with the model.
        """
        self.swaps = 0
        self._make = partial(Answering, decoder=decoder, clock=clock)
        open_model = partial(load, precision=precision, threads=threads)
        self._champion = Followed(reference, open_model, clock)
        self._shadow = None if shadow is None else Followed(shadow, open_model, clock)
        scorer = self._champion.load()
        if settings.event_id is None:
            # Once for all versions: whoever reads the scores looks for it.
            settings = replace(settings, event_id=scorer.spec.event_id)
        self.settings = settings
        self._answering = self._make(scorer, settings)
        self._champion.accept(scorer)
        if self._shadow is not None:
            self._move(self._shadow, self._shadow.newer(first=True))

    def current(self) -> Answering:
        """The model that answers the next batch."""
        return self._answering

    @property
    def refusals(self) -> int:
        """How often a version was refused."""
        return self._champion.refusals + (self._shadow.refusals if self._shadow else 0)

    def refresh(self) -> bool:
        """Look at what is published and move on to it; whether another version took over. For one thread at a time."""
        moved = [self._move(one, one.newer()) for one in (self._champion, self._shadow) if one is not None]
        self.swaps += sum(moved)
        return any(moved)

    def _move(self, followed: Followed, loaded: Scorer | None) -> bool:
        """Let what was loaded take over; whether it does."""
        if loaded is None:
            return False
        serving = self._answering
        scorer, shadow = (loaded, serving.shadow) if followed is self._champion else (serving.scorer, loaded)
        try:
            self._answering = self._make(scorer, self.settings, shadow=shadow)
        except Exception as error:
            followed.refuse(loaded.version, error)
            return False
        followed.accept(loaded)
        logger.info("%s/%s takes over from the next batch on", loaded.name, loaded.version)
        return True


class Watch:
    """Refreshes models every `interval_s` in a thread of its own, until it is closed. A context manager."""

    def __init__(self, models: ServedModels, interval_s: float) -> None:
        """Begin."""
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._refresh, args=(models, interval_s), name="streamfm-watch", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Watch:
        """The watch itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Stop looking, once a version that is being loaded is there."""
        self._closing.set()
        # A thread that is still inside a C++ library when Python ends takes the process down with it.
        self._thread.join()

    def _refresh(self, models: ServedModels, interval_s: float) -> None:
        while not self._closing.wait(interval_s):
            try:
                models.refresh()
            # Whatever a bundle on its way can do, the model that serves goes on, and the next look is taken.
            except Exception:
                logger.exception("the look for a new version failed")
