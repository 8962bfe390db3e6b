"""Classic baselines of machine unlearning for classifiers: what every method is compared with. No torch at import."""
