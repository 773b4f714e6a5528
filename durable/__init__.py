"""Durable execution inside your own process: decorate a function, and it survives `kill -9`.

Declare with `handler`, `Service`, `VirtualObject`, `Workflow`; run with `Engine`; inside a handler, a context does
things once and for all.
"""

from durable.client import Applied, Handle
from durable.context import (
    Context,
    ObjectContext,
    SharedObjectContext,
    SharedWorkflowContext,
    WorkflowContext,
)
from durable.core.duration import Duration
from durable.core.retry import RetryPolicy
from durable.engine import Engine
from durable.errors import (
    AttemptEnded,
    ConflictError,
    DeclarationError,
    DurableError,
    DurableTimeoutError,
    EngineFailedError,
    EngineLockedError,
    EngineNotRunningError,
    ForkedEngineError,
    GoneError,
    InvalidRequestError,
    InvocationCancelled,
    InvocationKilled,
    JournalMismatchError,
    NotFoundError,
    NotInHandlerError,
    OutputNotReadyError,
    RequestError,
    RetryableError,
    SerializationError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
    StorageVersionError,
    TerminalError,
    TooEarlyError,
    UnsupportedError,
    UsageError,
    WrongLoopError,
)
from durable.futures import DurableFuture, as_completed, gather, select, wait_completed
from durable.operations import Awakeable, Call, Promise, Request, SendHandle
from durable.saga import Saga
from durable.serde import Serde
from durable.service import Handler, Service, VirtualObject, Workflow, handler
from durable.store.query import EntryView, InvocationView

__all__ = [
    "Applied",
    "AttemptEnded",
    "Awakeable",
    "Call",
    "ConflictError",
    "Context",
    "DeclarationError",
    "DurableError",
    "DurableFuture",
    "DurableTimeoutError",
    "Duration",
    "Engine",
    "EngineFailedError",
    "EngineLockedError",
    "EngineNotRunningError",
    "EntryView",
    "ForkedEngineError",
    "GoneError",
    "Handle",
    "Handler",
    "InvalidRequestError",
    "InvocationCancelled",
    "InvocationKilled",
    "InvocationView",
    "JournalMismatchError",
    "NotFoundError",
    "NotInHandlerError",
    "ObjectContext",
    "OutputNotReadyError",
    "Promise",
    "Request",
    "RequestError",
    "RetryPolicy",
    "RetryableError",
    "Saga",
    "SendHandle",
    "Serde",
    "SerializationError",
    "Service",
    "SharedObjectContext",
    "SharedWorkflowContext",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageReadOnlyError",
    "StorageVersionError",
    "TerminalError",
    "TooEarlyError",
    "UnsupportedError",
    "UsageError",
    "VirtualObject",
    "Workflow",
    "WorkflowContext",
    "WrongLoopError",
    "as_completed",
    "gather",
    "handler",
    "select",
    "wait_completed",
]
