"""The admin API: an engine seen and steered over HTTP, in Restate's wire format.

`create_app(engine)` is an ASGI app to mount in your own; it needs the extra `http`. Restate's own command line,
unmodified, operates an embedded engine through it.
"""

from durable.admin.app import App, create_app
from durable.admin.limits import Limits
from durable.admin.sql.reader import QueryLimits

__all__ = ["App", "Limits", "QueryLimits", "create_app"]
