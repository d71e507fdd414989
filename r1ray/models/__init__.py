"""Where models come from: the embedded base model, a packaged GGUF, local folders and hub ids."""
