"""Weight sync: from the learner's shards to every rollout engine."""
