"""Model sources, model files and token counts; imports without torch."""
