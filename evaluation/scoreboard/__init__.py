"""The benchmark's parts: its course, truth, measures, metrics, page."""
