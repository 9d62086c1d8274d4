"""What can go wrong between a request and its tokens.

EngineError
├── ModelLoadError            the checkpoint cannot be served: what, expected, got
│   └── KVCapacityError       not even one request of max_model_len tokens fits in the KV pool
├── RequestRefusedError       this request can never run: it is the client's to change (HTTP 400)
├── QueueFullError            too many wait already (HTTP 429)
├── StepFailedError           the engine failed at this request, and goes on (HTTP 500)
├── RequestCutError           its time was up, or nobody read it (HTTP 408)
└── EngineUnavailableError    the engine is loading, restarting or draining (HTTP 503)
"""


class EngineError(Exception):
    """The root of all that the engine raises on purpose."""


class ModelLoadError(EngineError):
    """A checkpoint that cannot be served; the message says what, expected and got."""


class KVCapacityError(ModelLoadError):
    """The KV pool is too small for what is asked of it."""


class RequestRefusedError(EngineError):
    """A request that can never run.

    Attributes:
        code: `context_length_exceeded`, `kv_capacity_exceeded`, `invalid_grammar` or `invalid_value`.
        param: the wire name of the field to change, where it is one.
    """

    def __init__(self, message: str, *, code: str, param: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class QueueFullError(EngineError):
    """The waiting queue is full.

    Attributes:
        retry_after_s: when a place is likely to be free.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StepFailedError(EngineError):
    """The engine failed while it computed a request, and goes on with others."""


class RequestCutError(EngineError):
    """A request that was ended before its output was complete: its time was up, or nobody read it.

    Attributes:
        code: `deadline_exceeded` or `slow_reader`.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class EngineUnavailableError(EngineError):
    """No engine answers for this model at present.

    Attributes:
        code: `engine_unavailable` or `draining`.
        retry_after_s: when it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after_s: float, code: str = "engine_unavailable") -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
