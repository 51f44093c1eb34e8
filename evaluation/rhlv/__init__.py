"""The parts of measuring the relative height loss: intervals, records, table, pictures."""
