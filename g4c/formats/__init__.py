"""File formats that more than one stage reads or writes."""
