"""The report's parts."""
