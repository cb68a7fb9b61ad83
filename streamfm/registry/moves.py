"""Moving an alias: to a version, and back."""

from __future__ import annotations

from streamfm.errors import RegistryError
from streamfm.registry.aliases import MAX_EARLIER, Move
from streamfm.registry.models import PAUSE_S, RETRIES, Model


def promote(model: Model, version: int, alias: str, *, expected: int | None) -> Move:
    """See `Registry.promote`."""
    log = model.log(alias)
    with model.hold(version):
        model.open(version)
        for attempt in range(RETRIES):
            head = log.head()
            if expected is not None and expected != (head.version if head else 0):
                at = f"at {head.version}" if head else "not set"
                raise RegistryError(
                    f"{model.name}@{alias} is {at}, expected {expected or 'no such alias'}",
                    hint="another process moved it; look again and decide anew",
                )
            if head is not None and head.version == version:
                return head
            earlier = (*head.earlier, head.version)[-MAX_EARLIER:] if head else ()
            move = Move(
                sequence=head.sequence + 1 if head else 1,
                version=version,
                earlier=earlier,
                kind="promote",
                moved_at=model.surroundings.moment,
                moved_by=model.surroundings.who,
            )
            if log.append(move):
                return move
            # Somebody else has moved it, so this is no standstill; a network file system may show it with a delay.
            model.surroundings.sleep(PAUSE_S if attempt > 3 else 0)
    raise RegistryError(f"{model.name}@{alias} was moved {RETRIES} times meanwhile", hint="try again")


def rollback(model: Model, alias: str, *, expected: Move | None) -> Move:
    """See `Registry.rollback`."""
    head = model.head(alias)
    if expected is not None and head != expected:
        raise _moved(model, alias)
    if not head.earlier:
        raise RegistryError(
            f"{model.name}@{alias} is at {head.version}, and was nowhere before",
            hint=f"promote another version; {model.have()}",
        )
    version = head.earlier[-1]
    with model.hold(version):
        model.open(version)
        move = Move(
            sequence=head.sequence + 1,
            version=version,
            earlier=head.earlier[:-1],
            kind="rollback",
            moved_at=model.surroundings.moment,
            moved_by=model.surroundings.who,
        )
        if not model.log(alias).append(move):
            raise _moved(model, alias)
    return move


def _moved(model: Model, alias: str) -> RegistryError:
    return RegistryError(f"{model.name}@{alias} moved meanwhile", hint="look again and decide anew")
