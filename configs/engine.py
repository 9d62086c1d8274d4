"""All that one engine process is told."""

from cyclopts import Parameter
from pydantic import Field

from configs.base import Settings
from configs.cache import CacheSettings
from configs.model import ModelSettings
from configs.scheduler import SchedulerSettings


@Parameter(name="*")
class EngineSettings(Settings):
    """Settings of one engine: its model, its KV cache, its scheduler."""

    model_settings: ModelSettings = Field(default=ModelSettings())
    """How the model is loaded."""

    cache: CacheSettings = Field(default=CacheSettings())
    """The KV cache."""

    scheduler: SchedulerSettings = Field(default=SchedulerSettings())
    """Limits of continuous batching."""
