"""What a run leaves behind: metrics, rollouts, events, summary, report, and the console.

Everything here runs in the driver process and writes through one `RunDirectory`, which may be local or
any fsspec URL. Knows nothing of Ray, of models or of how the figures come about.
"""
