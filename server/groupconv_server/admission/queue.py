"""A fair queue: one task of each caller in turn, so a caller with many does not delay the others."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

from groupconv_server.telemetry.request import Request, current

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue for each caller, served round robin. Not safe to use from several threads.

    Attributes:
        count: number of tasks in it.

    Example:
        >>> queue = FairQueue()
        >>> for caller, task in (("a", 1), ("a", 2), ("a", 3), ("b", 4)):
        ...     queue.push(caller, task)
        >>> queue.count, [queue.pop() for _ in range(4)]
        (4, [1, 4, 2, 3])
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self.count = 0

    def push(self, caller: Hashable, task: T) -> None:
        """Add a task behind the caller's others."""
        queue = self._queues.get(caller)
        if queue is None:
            queue = self._queues[caller] = deque()
        queue.append(task)
        self.count += 1

    def pop(self) -> T:
        """The oldest task of the caller whose turn it is.

        Raises:
            IndexError: the queue is empty.
        """
        if not self._queues:
            raise IndexError("pop from an empty queue")
        caller, queue = self._queues.popitem(last=False)
        task = queue.popleft()
        if queue:
            self._queues[caller] = queue  # behind the others
        self.count -= 1
        return task


def caller_of_task(fn: Callable[..., Any], args: tuple[Any, ...]) -> Hashable:
    """The caller of a task that gRPC submits.

    gRPC submits a function that is bound to the request's context, and the call's event as its second argument.
    """
    context = getattr(fn, "__self__", None)
    request = context.get(current) if isinstance(context, Context) else None
    return caller_of(request, getattr(args[1], "call", None) if len(args) > 1 else None)


def caller_of(request: Request | None, call: Any) -> Hashable:
    """The name of the token that a request came with, else the caller's address."""
    if request is not None and request.token:
        return request.token
    if call is None:
        return ""
    peer = str(call.peer())
    return peer if request is None else request.peer(peer)
