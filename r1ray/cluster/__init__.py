"""What a machine can do: diagnosis."""
