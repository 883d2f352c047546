"""The decode loop of models that generate text step by step."""
