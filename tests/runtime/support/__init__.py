"""What can be done to a pipeline around an edit, measured: the table in docs/support.md comes from here."""
