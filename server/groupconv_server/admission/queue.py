"""What waits for a thread: one task of each caller in turn, so that a caller with many does not delay the others."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue for each caller, taken from in turns (round robin). Not safe to use from several threads.

    Example:
        >>> queue = FairQueue()
        >>> for caller, task in (("a", 1), ("a", 2), ("a", 3), ("b", 4)):
        ...     queue.push(caller, task)
        >>> len(queue), [queue.pop() for _ in range(4)]
        (4, [1, 4, 2, 3])
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, caller: Hashable, task: T) -> None:
        """Add a task behind the caller's others."""
        queue = self._queues.get(caller)
        if queue is None:
            queue = self._queues[caller] = deque()
        queue.append(task)
        self._count += 1

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
        self._count -= 1
        return task
