"""Engine that samples from servers over HTTP: vLLM, SGLang, llama.cpp, and OpenAI-compatible ones without token ids."""
