"""Files of a model: their sources, and token counts without torch."""
