"""Why does the model still draw it? Ordered checks of files, model, settings and pictures, most likely cause first."""
