"""Guards act while a model runs and change no weights: a first answer, and what every eraser has to beat."""
