"""OpenAI's routes: ``/v1/embeddings``, ``/v1/completions`` and ``/v1/chat/completions``.

The path of a call: `routes` validates it (`request_schemas`, `fields`), `requests` submits it and waits, and `answers`
makes the response; a streamed answer takes `streaming` and `chunks` instead.
"""
