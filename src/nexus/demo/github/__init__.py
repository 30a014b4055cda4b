"""The story ``github``: real webhooks, routed by type and action, checked against their published schemas.

53 of the 329 do not fit. They become dead letters, are mended and sent again or given up, and what was stored is
replayed into a group that did not exist before. ``docs/demo.md`` tells what is shown and what is wrong with the data.
"""
