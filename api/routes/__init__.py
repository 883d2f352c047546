"""The routes outside OpenAI's, one file per group, and the OpenAPI document."""
