"""Pure decisions about a decode step: admit, preempt, plan; pages of the KV cache."""
