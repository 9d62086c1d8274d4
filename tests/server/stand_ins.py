"""What routes and middleware need of a server, without an engine."""

from typing import Any, cast

import httpx
from fastapi import FastAPI

from configs.http import HTTPSettings
from engine.client import EngineState
from engine.errors import EngineUnavailableError
from engine.info import EngineInfo, EngineStats, MemoryLedger, RequestState
from kvcache.block_map import BlockSnapshot
from kvcache.geometry import KVGeometry, LayerGeometry
from server.auth import APIKeyMiddleware
from server.errors import install_error_handlers, model_not_found
from server.keys import Keys
from server.metrics import Metrics

GQA = LayerGeometry(num_q_heads=9, num_kv_heads=3, k_head_dim=64, v_head_dim=64)
MQA = LayerGeometry(num_q_heads=9, num_kv_heads=1, k_head_dim=64, v_head_dim=64)
SMOLLM2 = KVGeometry(layers=(GQA,) * 30, dtype_bytes=2, block_size=16)


def make_info(
    geometry: KVGeometry = SMOLLM2, num_blocks: int = 100, max_model_len: int = 1000, kv_cache_dtype: str = "bfloat16"
) -> EngineInfo:
    """A loaded engine; 40 bytes of its device are unaccounted for."""
    kv_cache_bytes = num_blocks * geometry.bytes_per_block
    ledger = MemoryLedger(
        weights_bytes=1000,
        kv_cache_bytes=kv_cache_bytes,
        workspace_bytes=200,
        framework_bytes=300,
        free_bytes=5000,
        total_bytes=kv_cache_bytes + 6640,
        other_bytes=100,
    )
    return EngineInfo(
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        kv_cache_dtype=kv_cache_dtype,
        device="cpu",
        kernels="cpu (generic)",
        attention_backend="reference",
        attention_objections={"flash": ["needs a CUDA device"]},
        vocab_size=100,
        max_model_len=max_model_len,
        longest_context=max_model_len,
        eos_token_ids=[2],
        geometry=geometry,
        num_blocks=num_blocks,
        ledger=ledger,
        startup_s={"import": 1.5, "weights": 0.5},
    )


class FakeClient:
    """The attributes of an EngineClient."""

    def __init__(self, info: EngineInfo | None = None) -> None:
        self.model_name = "tiny"
        self.state = EngineState.READY if info else EngineState.LOADING
        self.failure: str | None = None
        self.info = info
        self.stats = EngineStats()
        self.num_restarts = 0
        self.num_requests = 0
        self.on_stats: Any = None
        self.snapshot: BlockSnapshot | None = None
        self.states: dict[str, RequestState] = {}

    @property
    def open_request_ids(self) -> list[str]:
        return list(self.states)

    def check_room(self, prompts: list[list[int]], num_choices: int) -> None:
        """There is always room."""

    async def block_snapshot(self) -> BlockSnapshot:
        if self.snapshot is None:
            raise EngineUnavailableError("the engine died before it answered", retry_after_s=5.0)
        return self.snapshot

    async def request_states(self, request_ids: list[str]) -> list[RequestState]:
        return [self.states[request_id] for request_id in request_ids]

    def send(self, stats: EngineStats) -> None:
        """What the client does with a snapshot that comes in."""
        self.stats = stats
        self.on_stats(stats)

    def restart(self) -> None:
        """What the client does when the process dies."""
        self.stats = EngineStats()
        self.num_restarts += 1


class FakeModel:
    """The attributes of a ServedModel."""

    def __init__(self, name: str, client: FakeClient) -> None:
        self.name = name
        self.client = client


class FakeState:
    """The attributes of a ServerState."""

    def __init__(self, **clients: FakeClient) -> None:
        self.models = {name: FakeModel(name, client) for name, client in clients.items()}
        self.http = HTTPSettings()
        self.is_draining = False
        self.metrics = Metrics()
        self.created_s = 1_700_000_000
        for model in self.models.values():
            self.metrics.register(cast(Any, model))

    def find(self, name: str) -> FakeModel:
        """As ServerState's."""
        if name not in self.models:
            raise model_not_found(name, self.models)
        return self.models[name]


def make_app(state: FakeState, *routers: Any) -> FastAPI:
    """An application with these routers and the error handlers, open to everybody."""
    app = FastAPI()
    app.add_middleware(APIKeyMiddleware, keys=Keys(state.http), open_paths=frozenset())
    app.state.server = state
    install_error_handlers(app)
    for router in routers:
        app.include_router(router)
    return app


def connect(app: Any, *, raise_app_exceptions: bool = True) -> httpx.AsyncClient:
    """A client of `app`, in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    return httpx.AsyncClient(transport=transport, base_url="http://test")
