"""What users call and what asks the registry: models, artifacts, runs, applying, measuring."""
