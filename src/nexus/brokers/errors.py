"""What can go wrong with a broker: a program is missing, or it does not do as it should."""

from __future__ import annotations

from nexus.errors import NexusError


class BrokerFailed(NexusError):
    """A broker could not be installed, started or ended; the text holds the last lines that it wrote."""

    code = "NXS-6200"


class MissingProgram(BrokerFailed):
    """A program that brings or runs a broker is not on this machine; the hint is the command that gets it."""

    code = "NXS-6201"
