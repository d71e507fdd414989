"""Every error r1ray raises on purpose.

A message names the thing, what is allowed, what came, and the remedy. The command line prints
these without a traceback and exits with the class's `exit_code`; anything else is a bug and keeps its
traceback.
"""


class R1RayError(Exception):
    """Base of all errors that r1ray raises on purpose."""

    exit_code = 1


class ConfigError(R1RayError):
    """The configuration is wrong: unknown key, wrong type, or impossible combination."""

    exit_code = 2


class DataError(R1RayError):
    """A dataset, prompt or stored file cannot be used as asked."""

    exit_code = 2


class ModelError(R1RayError):
    """A model or tokenizer cannot be found, converted or loaded."""

    exit_code = 2


class CheckpointError(R1RayError):
    """A checkpoint is missing, incomplete or does not belong to this run."""


class ClusterError(R1RayError):
    """Ray cannot give the resources that the placement asks for, or cannot be reached."""


class RolloutError(R1RayError):
    """Rollout workers failed more often than the run allows."""


class GraderError(R1RayError):
    """Graders failed more often than the run allows: rewards can no longer be trusted."""


class SandboxError(R1RayError):
    """No sandbox can be started on this machine, or it cannot enforce what is asked."""


class LearnerError(R1RayError):
    """A learner process failed; the last checkpoint holds."""


class LearnerDied(LearnerError):
    """A learner process is gone; the group can start again from the last checkpoint."""


class WeightSyncError(R1RayError):
    """New weights did not reach a rollout engine, or it does not sample from them."""


class Interrupted(R1RayError):
    """The user asked the run to stop; a checkpoint has been written."""

    exit_code = 130
