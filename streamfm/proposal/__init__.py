"""A first specification, proposed from data with its reasons."""

from streamfm.proposal.proposing import Proposal, propose

__all__ = ["Proposal", "propose"]
