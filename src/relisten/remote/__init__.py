"""Engines that run elsewhere: vLLM servers, which take and give tokens, and models behind a chat API."""
