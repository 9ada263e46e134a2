"""Recorded runs: bags and logs read, summarised, drawn and replayed."""
