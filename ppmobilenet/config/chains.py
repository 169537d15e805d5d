"""The lists of transforms as chains: what each gives, the next must take, before a photo is read."""

from __future__ import annotations

from ppmobilenet.config.check import dotted
from ppmobilenet.config.reading import Document
from ppmobilenet.config.sizes import LISTS, entries
from ppmobilenet.errors import UserError
from ppmobilenet.photos.chain import check_chain
from ppmobilenet.registry import TRANSFORMS


def check_chains(document: Document) -> list[str]:
    """Refuse a list of transforms that cannot work, or that blinds the network. Returns notes for the log.

    Raises:
        UserError: a parameter that a transform refuses, or the first transform that gets what it does not take.
    """
    notes = []
    for path in LISTS:
        built, places = [], []
        for at, name, keys in entries(document, path):
            places.append(at)
            try:
                built.append(TRANSFORMS[name](**keys))
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{dotted(at)}: {error}", where=document.where(at)) from error
        fault = check_chain(built) if built else None
        if fault:
            at = places[fault.position] if fault.position < len(places) else path
            raise UserError(f"{dotted(at)}: {fault.message}", where=document.where(at), hint=fault.hint)
        for at, transform in zip(places, built):
            doubt = getattr(transform, "doubt", None)
            if doubt:
                notes.append(f"{document.where(at)}: {dotted(at)}: {doubt}")
    return notes
