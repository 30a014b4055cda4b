"""The conformance suite: what every backend must do, as tests that know no backend.

    pytest --pyargs nexus.testing.conformance --nexus-backends=memory,sqlite:////tmp/store-{id}.db

The same cases run on every backend and none is skipped: a capability changes what something costs, not what it means.
One capability is asked for, where it says who recognises a second copy of an event: the store when it takes it, or the
consumer when it meets it (`Capabilities.dedup`); the cases of whole buses hold alike. In memory time is virtual;
elsewhere it is real.
"""
