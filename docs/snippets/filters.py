from datetime import UTC, datetime

from nexus.core.filter import compile_filter
from nexus.event import Event

event = Event(
    id="1",
    source="/shop",
    type="order.placed",
    time=datetime(2013, 1, 1, 9, 30, tzinfo=UTC),
    key="o-1",
    extensions={"region": "eu"},
    body=b'{"total": 120, "country": "CH", "lines": [{"sku": "A-1"}]}',
)

for text in (
    "type.startsWith('order.') && headers.region == 'eu'",
    "data.total > 100 && data.country in ['CH', 'DE']",
    "data.lines[0].sku.matches('^[A-Z]-[0-9]+$')",
    "has(data.discount) ? data.discount < 10 : true",
    "time > timestamp('2012-12-31T23:00:00Z') + duration('1h')",
    "data.discount > 0 || data.total > 100",
):
    assert compile_filter(text).matches(event), text

# No such field: the filter has no answer, so the event is not wanted.
assert not compile_filter("data.discount > 0").matches(event)
