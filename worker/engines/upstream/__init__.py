"""The engine of task ``upstream``: a server with OpenAI's interface, such as vLLM, llama.cpp, Ollama or LM Studio."""
