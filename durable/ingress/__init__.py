"""The HTTP ingress: an engine's handlers invoked over HTTP, in Restate's paths, headers and answers.

`create_app(engine)` is an ASGI app to mount in your own; it needs the extra `http`.
"""

from durable.ingress.app import App, create_app
from durable.ingress.policy import Limits

__all__ = ["App", "Limits", "create_app"]
