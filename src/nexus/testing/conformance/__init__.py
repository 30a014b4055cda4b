"""The conformance suite: what every backend must do, as tests that know no backend.

    pytest --pyargs nexus.testing.conformance --nexus-backends=memory,sqlite:////tmp/store-{id}.db

The same cases run on every backend, none is skipped, and none asks a capability before it decides what is right: a
capability changes what something costs, not what it means. In memory time is virtual; elsewhere it is real.
"""
