"""Model families: one object per architecture answers every model-specific question."""
