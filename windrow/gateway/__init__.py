"""`InferenceGateway`: batched inference inside this process, or through a server, with one call."""

from windrow.gateway.config import InferenceConfig
from windrow.gateway.gateway import InferenceGateway

__all__ = ["InferenceConfig", "InferenceGateway"]
