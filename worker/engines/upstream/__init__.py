"""Task ``upstream``: a server with OpenAI's interface (vLLM, llama.cpp, Ollama, LM Studio) behind the queue."""
