"""OpenAI's routes: ``/v1/embeddings``, ``/v1/completions`` and ``/v1/chat/completions``.

Every call becomes requests on the queue, batched with everyone else's, and its answer is put together from their ends.
"""
