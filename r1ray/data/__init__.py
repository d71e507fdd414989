"""Prompts: sources, templating, cursor and the embedded tasks."""
