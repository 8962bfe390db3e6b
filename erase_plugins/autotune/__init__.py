"""One command that tunes itself: methods and their options are searched, the trade-off is shown, one point is taken."""
