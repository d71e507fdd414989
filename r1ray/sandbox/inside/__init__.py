"""What runs inside a sandbox: it needs the standard library only, and nothing else of r1ray."""
