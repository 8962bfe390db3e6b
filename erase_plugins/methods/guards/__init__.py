"""Guards: they change no weights and act while a model runs. The first answer to a request, and what every eraser has to beat."""
