"""What brokers lack, written once: groups, leases, cursors, seals and known ids above any `nexus.spi.log.Log`.

Everything here is a fold over journals, topics of one partition in the same log: each process reads the same records in
the same order and so knows the same. `LogBackend` puts it together.
"""

from nexus.coordination.backend import LogBackend

__all__ = ["LogBackend"]
