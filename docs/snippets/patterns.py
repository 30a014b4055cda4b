from nexus.core.pattern import Pattern, Router

assert Pattern("order.*").matches("order.placed")
assert not Pattern("order.*").matches("order.line.added")
assert Pattern("order.**").matches("order.line.added")
assert Pattern("order.**").matches("order")
assert not Pattern("order.*").matches("order:placed")
assert Pattern("*:*:v1:success").matches("commerce:create_order:v1:success")

router = Router[str]()
router.add("billing", "order.placed", "order.cancelled")
router.add("audit", "**")
assert router.match("order.placed") == ("billing", "audit")
