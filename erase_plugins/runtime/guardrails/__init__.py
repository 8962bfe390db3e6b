"""Guards in force on a pipeline or a language model: they look at what is asked, or steer while it runs."""
