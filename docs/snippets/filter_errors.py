from nexus.core.filter import compile_filter
from nexus.errors import FilterError

try:
    compile_filter("typ == 'order.placed'")
except FilterError as error:
    print(error)
