"""What guards hit and what they let through, by kind of prompt: `python -m tools.guardrails`."""
