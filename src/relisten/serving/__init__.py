"""`relisten serve`: an HTTP API in OpenAI's chat form, and a page where people watch a model listen."""
