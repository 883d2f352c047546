"""`InferenceGateway`: batched inference in this process or through a server, by one call."""

from windrow.gateway.config import InferenceConfig
from windrow.gateway.gateway import InferenceGateway

__all__ = ["InferenceConfig", "InferenceGateway"]
