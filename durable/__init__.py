"""Durable execution inside your own process: decorate a function, and it survives `kill -9`.

Declare with `handler`, `Service`, `VirtualObject`, `Workflow`; run with `Engine`; inside a handler, a context does
things once and for all.
"""

from durable.api import EngineApi
from durable.client import Applied, Handle
from durable.codec import Codec
from durable.combining import as_completed, gather, select, wait_completed
from durable.context import (
    Context,
    ObjectContext,
    SharedObjectContext,
    SharedWorkflowContext,
    WorkflowContext,
)
from durable.core.duration import Duration
from durable.core.retry import RetryPolicy
from durable.engine import Engine, Role
from durable.errors import (
    AttemptEnded,
    CodecError,
    ConflictError,
    DeclarationError,
    DurableError,
    DurableTimeoutError,
    EngineFailedError,
    EngineLockedError,
    EngineNotRunningError,
    EngineUnreachableError,
    ForkedEngineError,
    GoneError,
    InvalidRequestError,
    InvocationCancelled,
    InvocationKilled,
    JournalMismatchError,
    KeyMissingError,
    NotFoundError,
    NotInHandlerError,
    OutcomeUnknownError,
    OutputNotReadyError,
    RequestError,
    RetryableError,
    SerializationError,
    StaleWalError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
    StorageReplacedError,
    StorageVersionError,
    TerminalError,
    TooEarlyError,
    UnsupportedError,
    UsageError,
    ValueTooLargeError,
    WrongLoopError,
)
from durable.futures import DurableFuture
from durable.kafka.state import ClusterView, PartitionView, SubscriptionView
from durable.operations import Awakeable, Call, Promise, Request, SendHandle
from durable.remote.client import Client, connect
from durable.remote.sync import SyncClient, SyncHandle, connect_sync
from durable.saga import Saga
from durable.serde import Serde
from durable.service import Handler, Service, VirtualObject, Workflow, handler
from durable.store.restore import restore
from durable.telemetry.logs import InvocationFilter, ReplayFilter
from durable.views.health import Health
from durable.views.invocations import ChildView, EntryView, InvocationView, TimerView, WaitView

__all__ = [
    "Applied",
    "AttemptEnded",
    "Awakeable",
    "Call",
    "ChildView",
    "Client",
    "ClusterView",
    "Codec",
    "CodecError",
    "ConflictError",
    "Context",
    "DeclarationError",
    "DurableError",
    "DurableFuture",
    "DurableTimeoutError",
    "Duration",
    "Engine",
    "EngineApi",
    "EngineFailedError",
    "EngineLockedError",
    "EngineNotRunningError",
    "EngineUnreachableError",
    "EntryView",
    "ForkedEngineError",
    "GoneError",
    "Handle",
    "Handler",
    "Health",
    "InvalidRequestError",
    "InvocationCancelled",
    "InvocationFilter",
    "InvocationKilled",
    "InvocationView",
    "JournalMismatchError",
    "KeyMissingError",
    "NotFoundError",
    "NotInHandlerError",
    "ObjectContext",
    "OutcomeUnknownError",
    "OutputNotReadyError",
    "PartitionView",
    "Promise",
    "ReplayFilter",
    "Request",
    "RequestError",
    "RetryPolicy",
    "RetryableError",
    "Role",
    "Saga",
    "SendHandle",
    "Serde",
    "SerializationError",
    "Service",
    "SharedObjectContext",
    "SharedWorkflowContext",
    "StaleWalError",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageReadOnlyError",
    "StorageReplacedError",
    "StorageVersionError",
    "SubscriptionView",
    "SyncClient",
    "SyncHandle",
    "TerminalError",
    "TimerView",
    "TooEarlyError",
    "UnsupportedError",
    "UsageError",
    "ValueTooLargeError",
    "VirtualObject",
    "WaitView",
    "Workflow",
    "WorkflowContext",
    "WrongLoopError",
    "as_completed",
    "connect",
    "connect_sync",
    "gather",
    "handler",
    "restore",
    "select",
    "wait_completed",
]
